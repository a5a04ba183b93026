"""Draft servers on a Ray cluster: one on every node, kept by a small named actor that lives there.

Each server owns the prompts that rendezvous hashing gives its address, so every node holds its share of the history
instead of a copy. The actor starts `redraft serve` in a process of its own and starts it again when it dies; Ray
starts the actor again when that dies. Both come back on the same port with the same history. Anything in the cluster
finds the servers by name: `find_servers`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from redraft.errors import InvalidArgument, Unavailable

_LOG = logging.getLogger("redraft.recipe")

NAMESPACE = "redraft"
"""Ray namespace of the servers' actors."""
START_SECONDS = 60.0
"""Longest wait for a server to answer after its start, or for an actor to tell its address."""


class ServerProcess:
    """Runs one `redraft serve` and starts it again, on its port, when it dies.

    Args:
        host: address that it listens on; clients use the same.
        data_dir: where the history lies; None: with the server's other files, and removed with them.
        folder: where its other files lie, the same for a successor of this object, which then goes on on the same
            port; None: a new temporary folder.
        restarts: how often it is started again.
        arguments: further arguments of `redraft serve`.

    Raises:
        Unavailable: the server does not start.
    """

    def __init__(
        self,
        host: str,
        *,
        data_dir: str | None = None,
        folder: str | None = None,
        restarts: int = 3,
        arguments: Sequence[str] = (),
    ) -> None:
        self._folder = Path(folder or tempfile.mkdtemp(prefix="redraft-")).resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._data_dir = str(Path(data_dir).resolve()) if data_dir else str(self._folder / "data")
        self._ready_file = self._folder / "ready"
        self._restarts, self._arguments = restarts, list(arguments)
        self._stopping = threading.Event()
        known = self._folder / "address"
        wanted = known.read_text().strip() if known.exists() else ""
        self._address = self._start(wanted or f"{host}:0", patient=bool(wanted))
        known.write_text(self._address)
        threading.Thread(target=self._watch, name="redraft-server-watch", daemon=True).start()

    def address(self) -> str:
        """Return host:port."""
        return self._address

    def pid(self) -> int:
        """Return the process id of the server that runs now."""
        return self._process.pid

    def stop(self) -> None:
        """Stop the server gracefully and remove its files, but a history that was given a place."""
        self._stopping.set()
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, address: str, *, patient: bool) -> str:
        """Start the server and return its address once it answers; `patient`: a predecessor may still be ending."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._ready_file.unlink(missing_ok=True)
            self._process = self._spawn(address)
            while self._process.poll() is None:
                if self._ready_file.exists() and (found := self._ready_file.read_text().strip()):
                    return found
                if time.monotonic() > deadline:
                    self._process.kill()
                    raise Unavailable(
                        f"redraft.server: `redraft serve` was not ready within {START_SECONDS:.0f} s"
                    )
                time.sleep(0.05)
            if not patient or time.monotonic() > deadline:
                raise Unavailable(
                    f"redraft.server: `redraft serve` ended at once, status {self._process.returncode}"
                )
            time.sleep(0.5)

    def _spawn(self, address: str) -> subprocess.Popen[bytes]:
        command = serve_command(address, self._data_dir, str(self._ready_file), self._arguments)
        # In its own folder: where the actor runs may be a checkout that is not built, and `-m` looks there first.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent, cwd=self._folder
        )

    def _watch(self) -> None:
        restarts = 0
        while True:
            status = self._process.wait()
            if self._stopping.is_set():
                return
            again = restarts < self._restarts
            _LOG.warning(
                "draft server %s ended with status %d; %s",
                self.address(), status, "it is started again" if again else "training goes on without it",
            )  # fmt: skip
            if not again:
                return
            restarts += 1
            time.sleep(1.0)
            self._process = self._spawn(self._address)


def serve_command(address: str, data_dir: str, ready_file: str, arguments: Sequence[str] = ()) -> list[str]:
    """Return the command line of a server on `address` that keeps its history in `data_dir`."""
    command = [sys.executable, "-m", "redraft.cli", "serve", "--log-level", "warning"]
    command += ["--address", address, "--data", data_dir, "--ready-file", ready_file]
    return command + list(arguments)


class RayServers:
    """One server on each Ray node that has GPUs, or on every node when none has.

    Args:
        name: what `find_servers` finds them by; unique in the cluster.
        data_dir: folder on each node that keeps the history; None: a temporary one, removed by `stop`.
        restarts: how often each server is started again when it dies.
        arguments: further arguments of `redraft serve`.
        insecure: allow servers on several nodes, which listen beyond loopback, without TLS and token.
        detached: the servers outlive the driver that started them.

    Raises:
        InvalidArgument: there is more than one node, `insecure` is off and `arguments` set up no TLS.
        Unavailable: a server does not start.
    """

    def __init__(
        self,
        name: str = "redraft",
        *,
        data_dir: str | None = None,
        restarts: int = 3,
        arguments: Sequence[str] = (),
        insecure: bool = False,
        detached: bool = False,
    ) -> None:
        alive = [node for node in ray.nodes() if node["Alive"]]
        nodes = [node for node in alive if node["Resources"].get("GPU", 0) > 0] or alive
        secured = any("tls" in argument for argument in arguments)
        if len(nodes) > 1 and not (insecure or secured):
            raise InvalidArgument(
                f"redraft.server.insecure: draft servers on {len(nodes)} Ray nodes must listen beyond loopback; "
                "on a network that you trust set it to true, or start servers yourself and give redraft.addresses"
            )
        actor: Any = ray.remote(ServerProcess)
        self._actors: dict[str, Any] = {}
        for node in nodes:
            host = "127.0.0.1" if len(nodes) == 1 else node["NodeManagerAddress"]
            node_id = node["NodeID"]
            placed = actor.options(
                name=f"{name}@{node_id}",
                namespace=NAMESPACE,
                lifetime="detached" if detached else None,
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node_id, soft=False),
            )
            # Known before the actor runs, so that the actor's successor finds its port and its history.
            folder = os.path.join(
                tempfile.gettempdir(), f"redraft-{os.getuid()}-{node_id[:16]}-{os.getpid()}"
            )
            self._actors[node_id] = placed.remote(
                host,
                data_dir=data_dir,
                folder=folder,
                restarts=restarts,
                arguments=[*arguments, *(["--insecure"] if insecure else [])],
            )
        try:
            self.addresses: list[str] = ray.get([a.address.remote() for a in self._actors.values()])
        except ray.exceptions.RayActorError as error:
            self.stop()
            raise Unavailable(f"redraft.server: a draft server could not be started: {error}") from None
        _LOG.info("draft servers: %s", ", ".join(self.addresses))

    def stop(self) -> None:
        """Stop all servers; one that is gone already is not an error."""
        for actor in self._actors.values():
            try:
                ray.get(actor.stop.remote(), timeout=30)
            except Exception as error:
                _LOG.warning("a draft server could not be stopped: %s", error)
            with contextlib.suppress(Exception):
                ray.kill(actor)
        self._actors.clear()


def find_servers(name: str = "redraft", timeout: float = START_SECONDS) -> list[str]:
    """Return the addresses of the servers that `RayServers(name)` keeps, in a fixed order.

    Works in any process of the cluster; with `redraft.client.address_watch.AddressWatch` clients follow nodes that
    come and go. A server that is being started again is waited for; one whose node is gone is left out.

    Args:
        name: the servers' name.
        timeout: longest wait, in seconds.
    """
    names = sorted(
        entry["name"]
        for entry in list_named_actors(all_namespaces=True)
        if entry["namespace"] == NAMESPACE and entry["name"].startswith(f"{name}@")
    )
    asked = []
    for each in names:
        with contextlib.suppress(ValueError):  # it went meanwhile
            asked.append(ray.get_actor(each, namespace=NAMESPACE).address.remote())
    told, _ = ray.wait(asked, num_returns=len(asked), timeout=timeout) if asked else ([], [])
    addresses = []
    for answer in asked:
        if answer in told:
            with contextlib.suppress(ray.exceptions.RayActorError):
                addresses.append(ray.get(answer))
    return addresses


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Have the kernel end this process when the thread that started it dies (Linux only).

    Runs between fork and exec, where nothing may be imported or locked.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
