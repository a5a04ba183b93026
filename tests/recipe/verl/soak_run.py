"""The soak's processes: draft servers, one of which is killed every now and then, a training, and a look at memory."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

SAMPLE_SECONDS = 5.0
STUCK_SECONDS = 300.0
"""Longest time without a step, and until everything has ended after the last trajectory began."""


class Server:
    """A draft server in a process of its own that can be killed and started again on its port and its data."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.data = folder
        self.lives = 0
        self._log = folder.with_suffix(".log")
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["serve", "--address", self.address, "--data", str(self.data), "--log-level", "warning"]
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "redraft.cli", *command], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        assert "listening" in self.process.stdout.readline(), self._log.read_text()
        self.lives += 1

    def end(self, how: signal.Signals) -> None:
        """End it by a signal and wait."""
        self.process.send_signal(how)
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()


@dataclass
class Soak:
    """What a soak left behind."""

    minutes: float
    seconds: float = 0.0
    """How long trajectories were begun."""
    kills: int = 0
    """How often a draft server was killed and started again."""
    log: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """The metrics file's."""
    engine: list[dict[str, Any]] = field(default_factory=list)
    """What the agent loops wrote: see cancelling_loop."""
    memory: dict[str, list[tuple[float, int, int]]] = field(default_factory=dict)
    """Process -> (seconds since the start, resident bytes, bytes that are its own alone)."""
    drained: bool = False
    """Everything that began came to its end."""

    def growth(self, process: str) -> float | None:
        """Return by how much a process's own memory grew after the warm-up; None when it was not there long enough.

        Medians are compared: of the last quarter of the time after the warm-up (its first third), and of the first.
        """
        end = max(at for samples in self.memory.values() for at, _, _ in samples)
        start, part = end / 3, end / 6
        sizes = [(at, own) for at, _, own in self.memory[process] if at >= start]
        first = [own for at, own in sizes if at < start + part]
        last = [own for at, own in sizes if at >= end - part]
        return median(last) / median(first) - 1 if len(first) >= 5 and len(last) >= 5 else None

    def summary(self) -> dict[str, Any]:
        """Return the figures, without single samples."""
        last = self.engine[-1] if self.engine else {}
        return {
            "minutes": round(self.seconds / 60, 1),
            "steps": len(self.steps),
            "kills": self.kills,
            "drained": self.drained,
            "last": last,
            "longest_turn_seconds": max((line["longest"] for line in self.engine), default=None),
            "memory": {
                name: {
                    "samples": len(samples),
                    "own_mib": [round(samples[i][2] / 2**20, 1) for i in (0, len(samples) // 3, -1)],
                    "growth": self.growth(name),
                }
                for name, samples in sorted(self.memory.items())
            },
        }


def soak(
    minutes: float,
    command: list[str],
    servers: Mapping[str, Server],
    folder: Path,
    *,
    restart_seconds: float,
    environment: Mapping[str, str],
) -> Soak:
    """Train for so many minutes, then let everything come to its end.

    Args:
        minutes: how long trajectories are begun, counted from the first step's end.
        command: the training.
        servers: name -> draft server; the one called "killed" is.
        folder: where everything goes.
        restart_seconds: mean time between two kills.
        environment: of the training.
    """
    found = Soak(minutes)
    draw = random.Random(1)
    with open(folder / "log", "wb") as log:
        training = subprocess.Popen(command, stdout=log, stderr=log, env={**environment}, cwd=folder)
    metrics, engine, stop = folder / "metrics", folder / "engine.jsonl", folder / "stop"
    began = time.monotonic()
    first_step = stopped = None
    steps, last_step, down_until = 0, began, None
    next_kill = began + restart_seconds
    try:
        while True:
            time.sleep(SAMPLE_SECONDS)
            now = time.monotonic()
            if training.poll() is not None:
                break
            if len(read := [line for line in lines_of(metrics) if line["kind"] == "step"]) > steps:
                steps, last_step = len(read), now
                first_step = first_step or now
            if now - last_step > STUCK_SECONDS + (900 if first_step is None else 0):
                break
            if stopped is None:
                sample(found, training.pid, servers, now - began, folder / "memory.jsonl")
            if down_until is None and now > next_kill and stopped is None:
                servers["killed"].end(signal.SIGKILL)
                found.kills += 1
                down_until = now + draw.uniform(0, 15)
            elif down_until is not None and now > down_until:
                servers["killed"].start()
                down_until, next_kill = None, now + restart_seconds * draw.uniform(0.8, 1.2)
            if first_step is not None and stopped is None and now - first_step > 60 * minutes:
                stop.touch()
                stopped, found.seconds = now, now - first_step
                last_step = now
            if stopped is not None and down_until is None:
                tail = list(lines_of(engine))[-2:]
                if all(line.get("probed") and not line["trajectories"] for line in tail):
                    found.drained = True
                    time.sleep(5)  # what is still to be published
                    break
    finally:
        end_tree(training)
    found.log = (folder / "log").read_text(errors="replace")
    found.steps = [line for line in lines_of(metrics) if line["kind"] == "step"]
    found.engine = list(lines_of(engine))
    return found


def sample(found: Soak, pid: int, servers: Mapping[str, Server], at: float, kept: Path) -> None:
    """Add the memory of the training's processes and of the servers, to what was found and to a file."""
    now = {}
    processes = [(f"draft server {name}", server.process.pid) for name, server in servers.items()]
    try:
        children = psutil.Process(pid).children(recursive=True)
        processes += [(label, child.pid) for child in children if (label := name_of(child))]
    except psutil.NoSuchProcess:
        pass
    for name, number in processes:
        try:
            told = psutil.Process(number).memory_full_info()
        except (psutil.Error, OSError):
            continue
        now[name] = (round(at, 1), told.rss, told.uss)
        found.memory.setdefault(name, []).append(now[name])
    with open(kept, "a", encoding="utf-8") as file:
        file.write(json.dumps(now) + "\n")


def name_of(process: psutil.Process) -> str | None:
    """Return what a Ray or vLLM process calls itself; None for one that idles or is neither."""
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return None
    for title in ("VLLM::EngineCore", "ray::"):
        if words.startswith(title) and "IDLE" not in words:
            # "ray::Actor.method()" while it works, "ray::Actor" while it doesn't
            return f"{words.split('.')[0].split('(')[0].strip()} {process.pid}"
    return f"raylet {process.pid}" if "/raylet " in words else None


def end_tree(training: subprocess.Popen[bytes]) -> None:
    """End a training and what it started."""
    try:
        children = psutil.Process(training.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    training.terminate()
    try:
        training.wait(30)
    except subprocess.TimeoutExpired:
        training.kill()
        training.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    for process in alive:
        process.kill()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSON lines file that may still be written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the training."""
    here = str(Path(__file__).parent)
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        # Ray kills its own workers when the whole machine is short of memory, whoever takes it.
        "RAY_memory_monitor_refresh_ms": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "REDRAFT_STRICT": "1",
        "REDRAFT_TEST_RECORD": str(folder / "recorded.jsonl"),
        "REDRAFT_SOAK_LOG": str(folder / "engine.jsonl"),
        "REDRAFT_SOAK_STOP": str(folder / "stop"),
    }
