"""Hours of rollouts in minutes: leaks, stuck requests and lost responses show: `redraft bench soak`.

Two draft servers, one of which is killed or stopped every now and then and started anew; an engine under the load of
`soak_engine`. Memory of every process is sampled; at the end the histories are exported and compared with what the load
published.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from redraft.recipe.vllm.overhead import ENVIRONMENT, SHAPES
from redraft.recipe.vllm.overhead_engine import make_config
from redraft.recipe.vllm.soak_engine import RUN, digest, identity
from redraft.rollout import Rollout

SAMPLE_SECONDS = 2.0
GROWTH = 0.05
"""Most that resident memory may grow after the warm-up."""


@dataclass
class Report:
    """What a soak found."""

    minutes: float
    restarts: int = 0
    load: dict[str, Any] = field(default_factory=dict)
    """The load's own counts, its last word."""
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    """Process -> (seconds since the start, resident bytes); "engine" is the engine's core."""
    missing: int = 0
    """Responses that were published and are in no history."""
    repeated: int = 0
    """Responses that are in the histories more than once."""
    changed: int = 0
    """Responses whose tokens are not those that were published."""
    unknown: int = 0
    """Responses in the histories that nobody published."""

    def growth(self, process: str) -> float | None:
        """Return how much memory grew after the warm-up: median of the last quarter over that of the second, less 1."""
        values = [size for _, size in self.memory.get(process, [])]
        if len(values) < 16:
            return None
        parts = np.array_split(np.asarray(values, np.float64), 4)
        return float(np.median(parts[3]) / np.median(parts[1]) - 1)

    def failures(self) -> list[str]:
        """Return what went wrong; empty when nothing did."""
        found = []
        for process in ("engine", "server"):
            growth = self.growth(process)
            if growth is None:
                found.append(f"memory of the {process}: too short a time to tell")
            elif growth > GROWTH:
                found.append(f"memory of the {process} grew by {100 * growth:.1f} %")
        for name in ("stuck", "refused", "dropped"):
            if self.load.get(name):
                found.append(f"{self.load[name]} {name}")
        found += [f"the load failed: {error}" for error in self.load.get("errors", ["it told nothing"])[:3]]
        if not self.load.get("flushed"):
            found.append("not everything could be published at the end")
        for name in ("missing", "repeated", "changed", "unknown"):
            if count := getattr(self, name):
                found.append(f"{count} responses {name}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything but the single samples of memory."""
        sizes = {name: [size for _, size in samples] for name, samples in self.memory.items()}
        return {
            "minutes": self.minutes,
            "restarts": self.restarts,
            "load": self.load,
            "memory": {
                name: {
                    "first_mib": mine[len(mine) // 4] / 2**20,
                    "last_mib": mine[-1] / 2**20,
                    "most_mib": max(mine) / 2**20,
                    "growth": self.growth(name),
                    "samples": len(mine),
                }
                for name, mine in sizes.items()
            },
            **{name: getattr(self, name) for name in ("missing", "repeated", "changed", "unknown")},
            "failures": self.failures(),
        }


class Server:
    """A draft server in a process of its own, that can be ended in two ways and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.data = folder
        self._log = folder.with_suffix(".log").open("wb")
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["serve", "--address", self.address, "--data", str(self.data), "--log-level", "warning"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "redraft.cli", *command],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self.process.stdout is not None
        if "listening" not in self.process.stdout.readline():
            raise RuntimeError(f"the draft server did not start; see {self._log.name}")

    def end(self, how: signal.Signals) -> None:
        """End it by a signal and wait."""
        self.process.send_signal(how)
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()


def soak(
    minutes: float,
    *,
    restart_seconds: float,
    at_once: int,
    progress: Callable[[str], None],
) -> Report:
    """Run a soak.

    Args:
        minutes: how long there is load.
        restart_seconds: between two ends of the second server.
        at_once: requests that the engine runs.
        progress: called with a line now and then.
    """
    report = Report(minutes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_config(folder, **SHAPES["tiny"])
        steady, restarted = Server(folder / "steady"), Server(folder / "restarted")
        settings: dict[str, Any] = {
            "model": str(folder),
            "vocab_size": SHAPES["tiny"]["vocab_size"],
            "addresses": [steady.address, restarted.address],
            "seconds": 60 * minutes,
            "at_once": at_once,
            "prompts": 24,
            "siblings": 4,
            "longest": 120,
            "identities": str(folder / "identities.json"),
        }
        log = (folder / "load.log").open("wb")
        load = subprocess.Popen(
            [sys.executable, "-m", "redraft.recipe.vllm.soak_engine", json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**ENVIRONMENT, **os.environ},
        )
        try:
            _watch(report, load, steady, restarted, restart_seconds, progress)
        finally:
            load.kill()
            load.wait()
            for server in (steady, restarted):
                server.end(signal.SIGTERM)
        if not report.load:
            report.load = {"errors": [Path(log.name).read_text(errors="replace")[-2000:]]}
        elif Path(settings["identities"]).exists():
            published = json.loads(Path(settings["identities"]).read_text())
            compare(report, published, [steady.data, restarted.data])
    return report


def _watch(
    report: Report,
    load: subprocess.Popen[str],
    steady: Server,
    restarted: Server,
    restart_seconds: float,
    progress: Callable[[str], None],
) -> None:
    """Sample memory, restart the server and hand on what the load says, until it ends."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert load.stdout is not None
        for line in load.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    first = lines.get()
    if not first:
        return
    started = last_restart = time.monotonic()
    while True:
        time.sleep(SAMPLE_SECONDS)
        at = time.monotonic() - started
        for process, size in (
            ("engine", _engine_memory(load.pid)),
            ("driver", _memory(load.pid)),
            ("server", _memory(steady.process.pid)),
            ("restarted server", _memory(restarted.process.pid)),
        ):
            # Towards the end the load drains and its processes go.
            if size and at < 60 * report.minutes:
                report.memory.setdefault(process, []).append((at, size))
        if time.monotonic() - last_restart > restart_seconds and at < 60 * report.minutes:
            restarted.end(signal.SIGTERM if report.restarts % 2 else signal.SIGKILL)
            time.sleep(2)
            restarted.start()
            report.restarts += 1
            last_restart = time.monotonic()
            progress(f"{at:.0f} s: restarted a draft server")
        while not lines.empty():
            line = lines.get()
            if not line:
                return
            told = json.loads(line)
            if "end" in told:
                report.load = told["end"]
            else:
                progress(f"{at:.0f} s: {told}")


def _memory(pid: int) -> int:
    """Return the resident bytes of a process, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _engine_memory(driver: int) -> int:
    """Return the resident bytes of the driver's largest child, which is the engine's core."""
    try:
        children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    except OSError:
        return 0
    return max((_memory(int(child)) for child in children), default=0)


def compare(report: Report, published: dict[str, str], folders: list[Path]) -> None:
    """Hold what is stored against what was published."""
    stored: Counter[str] = Counter()
    for folder in folders:
        file = folder.with_suffix(".jsonl")
        command = ["history", "export", "--run", RUN, "--data", str(folder), str(file)]
        subprocess.run([sys.executable, "-m", "redraft.cli", *command], check=True, capture_output=True)
        for line in file.read_text().splitlines():
            row = json.loads(line)
            rollout = Rollout(
                np.asarray(row["prompt_token_ids"], np.int32),
                np.asarray(row["response_token_ids"], np.int32),
                epoch=row["epoch"],
                step=row["step"],
                sample=row["sample"],
            )
            name = identity(rollout)
            stored[name] += 1
            report.changed += name in published and published[name] != digest(rollout.response_token_ids)
    report.missing = len(set(published) - set(stored))
    report.unknown = len(set(stored) - set(published))
    report.repeated = sum(count - 1 for count in stored.values())
