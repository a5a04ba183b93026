"""One `redraft serve` on every Ray node, each kept by a small Ray actor that lives on that node."""

from __future__ import annotations

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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from redraft.errors import InvalidArgument, Unavailable
from redraft.recipe.verl.options import ServerOptions

_LOG = logging.getLogger("redraft.recipe.verl")

START_SECONDS = 60.0
"""Longest wait for a server to answer after its start."""


def serve_command(address: str, data_dir: str, ready_file: str, options: ServerOptions) -> list[str]:
    """Return the command line of a server on `address` that keeps its history in `data_dir`."""
    command = [sys.executable, "-m", "redraft.cli", "serve", "--log-level", "warning"]
    command += ["--address", address, "--data", data_dir, "--ready-file", ready_file]
    if options.window_epochs is not None:
        command += ["--window-epochs", str(options.window_epochs)]
    if options.window_tokens is not None:
        command += ["--window-tokens", str(options.window_tokens)]
    if options.insecure:
        command += ["--insecure"]
    return command + list(options.arguments)


class ServerProcess:
    """Runs one server process and starts it again when it dies, up to `options.restarts` times.

    Args:
        host: address that it listens on; clients use the same.
        options: see ServerOptions.
    """

    def __init__(self, host: str, options: ServerOptions) -> None:
        self._options = options
        self._temporary = tempfile.mkdtemp(prefix="redraft-")
        self._data_dir = options.data_dir or os.path.join(self._temporary, "data")
        self._ready_file = Path(self._temporary) / "address"
        self._stopping = threading.Event()
        self._process = self._start(f"{host}:0")
        self._address = self._wait_until_ready()
        threading.Thread(target=self._watch, name="redraft-server-watch", daemon=True).start()

    def address(self) -> str:
        """Return host:port."""
        return self._address

    def pid(self) -> int:
        """Return the process id of the server that runs now."""
        return self._process.pid

    def stop(self) -> None:
        """Stop the server gracefully and remove its history if it was temporary."""
        self._stopping.set()
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _start(self, address: str) -> subprocess.Popen[bytes]:
        self._ready_file.unlink(missing_ok=True)
        command = serve_command(address, self._data_dir, str(self._ready_file), self._options)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)

    def _wait_until_ready(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise Unavailable(
                    f"redraft.server: `redraft serve` ended at once, status {self._process.returncode}"
                )
            if self._ready_file.exists() and (address := self._ready_file.read_text().strip()):
                return address
            time.sleep(0.05)
        self._process.kill()
        raise Unavailable(f"redraft.server: `redraft serve` was not ready within {START_SECONDS:.0f} s")

    def _watch(self) -> None:
        restarts = 0
        while True:
            status = self._process.wait()
            if self._stopping.is_set():
                return
            again = restarts < self._options.restarts
            _LOG.warning(
                "draft server %s ended with status %d; %s",
                self.address(), status, "it is started again" if again else "training goes on without it",
            )  # fmt: skip
            if not again:
                return
            restarts += 1
            time.sleep(1.0)
            self._process = self._start(self._address)


class DraftServers:
    """The servers that the trainer started, one for each Ray node that has GPUs (all nodes when none has).

    Args:
        options: see ServerOptions.

    Raises:
        InvalidArgument: there is more than one node and `insecure` is off.
        Unavailable: a server does not start.
    """

    def __init__(self, options: ServerOptions) -> None:
        alive = [node for node in ray.nodes() if node["Alive"]]
        nodes = [node for node in alive if node["Resources"].get("GPU", 0) > 0] or alive
        secured = any("tls" in argument for argument in options.arguments)
        if len(nodes) > 1 and not (options.insecure or secured):
            raise InvalidArgument(
                f"redraft.server.insecure: draft servers on {len(nodes)} Ray nodes must listen beyond loopback; "
                "on a network that you trust set it to true, or start servers yourself and give redraft.addresses"
            )
        actor: Any = ray.remote(ServerProcess)
        self._actors = []
        for node in nodes:
            host = "127.0.0.1" if len(nodes) == 1 else node["NodeManagerAddress"]
            placed = actor.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False),
            )
            self._actors.append(placed.remote(host, options))
        self.addresses: Sequence[str] = ray.get([a.address.remote() for a in self._actors])
        _LOG.info("draft servers: %s", ", ".join(self.addresses))

    def stop(self) -> None:
        """Stop all servers; one that is gone already is not an error."""
        for actor in self._actors:
            try:
                ray.get(actor.stop.remote(), timeout=30)
            except Exception as error:
                _LOG.warning("a draft server could not be stopped: %s", error)
            ray.kill(actor)


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Have the kernel end this process when the thread that started it dies (Linux only).

    Runs between fork and exec, where nothing may be imported or locked.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
