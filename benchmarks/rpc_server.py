"""A `redraft serve` of its own process, and what the kernel says of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redraft.errors import Unavailable

_TICKS = os.sysconf("SC_CLK_TCK")


class ServerProcess:
    """A draft server on loopback, stopped when the `with` block ends.

    Args:
        data: its data directory.
        flags: further flags of `redraft serve`.
        address: host:port; port 0 takes a free one.

    Raises:
        Unavailable: it did not start; the message is the end of its log.
    """

    def __init__(self, data: Path, *flags: str, address: str = "127.0.0.1:0") -> None:
        started = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "redraft.cli",
            "serve",
            "--address",
            address,
            "--data",
            str(data.resolve()),
        ]
        self._popen = subprocess.Popen(
            [*command, "--metrics-address", "127.0.0.1:0", "--log-level", "warning", *flags],
            stdout=subprocess.PIPE,
            text=True,
            cwd=data,  # not in a checkout that is not built, where `-m` would look first
        )
        assert self._popen.stdout is not None
        line, metrics = self._popen.stdout.readline(), self._popen.stdout.readline()
        if not line.startswith("listening on "):
            raise Unavailable(f"server: it did not start (exit status {self._popen.wait()})")
        self.address = line.split()[-1]
        """host:port."""
        self.metrics_url = metrics.split()[-1]
        """Of its metrics port, with the last slash."""
        with grpc.insecure_channel(self.address) as channel:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        self.start_seconds = time.perf_counter() - started
        """From the start of the process to its answer that it serves."""

    def cpu_seconds(self) -> float:
        """Return the process's CPU time so far."""
        fields = Path(f"/proc/{self._popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self, name: str = "VmRSS") -> int:
        """Return its resident memory in bytes: now (VmRSS) or at most so far (VmHWM)."""
        status = Path(f"/proc/{self._popen.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    def metrics(self) -> dict[str, float]:
        """Return the samples of its metrics port, by name and labels as they are written."""
        with urllib.request.urlopen(f"{self.metrics_url}metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    def kill(self) -> None:
        """Kill it as a crash would."""
        self._popen.send_signal(signal.SIGKILL)
        self._popen.communicate()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen.poll() is None:
            self._popen.terminate()
            self._popen.communicate(timeout=60)
