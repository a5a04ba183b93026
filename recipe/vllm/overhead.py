"""What drafting costs an engine that drafts nothing, against plain decoding: `redraft bench overhead`.

Engines run side by side in processes of their own, a few steps each at the same time, so that whatever else the machine
does hits all alike; what is compared is the CPU time of steps that were made at the same time with texts of one length.
Not by turns: what an engine does by the clock would be done for the time of the others' turns, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from redraft.recipe.vllm.overhead_engine import make_config

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"layers": 2, "hidden": 64, "heads": 2, "kv_heads": 1, "vocab_size": 1024},
    "135M": {"layers": 30, "hidden": 576, "heads": 9, "kv_heads": 3, "vocab_size": 49152},
}
"""Shapes of Llamas with random weights. "tiny" costs next to nothing but vLLM's own Python: the worst case."""

PLAIN = "plain"

ENGINES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "asynchronous": {"async_scheduling": True},
    "empty": {"proposer": "redraft.recipe.vllm.overhead_engine.EmptyProposer"},
    "redraft": {"proposer": "redraft.recipe.vllm.proposer.RedraftProposer", "budget": 0},
}
"""What is compared: plain decoding, likewise with the asynchronous scheduler, speculation with a proposer that does
nothing, and redraft with a budget of 0. vLLM schedules synchronously as soon as a proposer of this kind is configured;
so does the plain engine that the others are held against."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""One thread: waiting threads that spin would count as CPU time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One engine at one number of requests; times are CPU seconds a step unless named otherwise."""

    engine: str
    requests: int
    cpu: float
    """Median of the rounds."""
    wall: float
    """Median of the rounds, in wall seconds a step."""
    overhead: float
    """Median over the rounds of this engine's CPU time / plain's in the same round - 1."""
    error: float
    """Standard error of `overhead`, from the spread between its quartiles."""
    drafting: float | None
    """Mean over all rounds, in redraft's proposer alone, on the engine's thread; None without it."""
    taking: float | None
    """Likewise, in asking the worker for the step's drafts, which vLLM does for each step; None without speculation.
    In one process: an executor that has workers in others pays for a message there and back."""
    plain: float
    """Median of plain's CPU time."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields under their names, times in milliseconds."""
        return {
            "engine": self.engine,
            "requests": self.requests,
            "cpu_ms": 1e3 * self.cpu,
            "wall_ms": 1e3 * self.wall,
            "overhead": self.overhead,
            "overhead_error": self.error,
            "drafting_ms": None if self.drafting is None else 1e3 * self.drafting,
            "taking_ms": None if self.taking is None else 1e3 * self.taking,
            "known_share": self.known_share,
        }

    @property
    def known_share(self) -> float | None:
        """What `drafting` and `taking` are of plain's CPU time; None without either. Far less noisy than `overhead`, of
        which they are the parts that are known."""
        known = [part for part in (self.drafting, self.taking) if part is not None]
        return sum(known) / self.plain if known else None


class EngineProcess:
    """An engine in a process of its own; a context manager.

    Args:
        settings: of `overhead_engine.Engine`.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "redraft.recipe.vllm.overhead_engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**ENVIRONMENT, **os.environ},
        )
        self.send(settings)

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def answer(self) -> dict[str, Any]:
        """Return the answer to what was sent."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine's process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def send(self, order: dict[str, Any]) -> None:
        """Send an order, which is answered."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


def measure(
    model: str,
    requests: Sequence[int],
    *,
    names: Sequence[str] = tuple(ENGINES),
    dtype: str,
    rounds: int,
    steps: int,
    progress: Callable[[str], None],
) -> list[Row]:
    """Return a row for each engine and number of requests.

    Args:
        model: name of a shape in `SHAPES`, or folder of a Hugging Face model.
        requests: numbers of running requests.
        names: of `ENGINES`, what is compared with plain decoding.
        dtype: as vLLM takes it.
        rounds: how often the engines make steps together.
        steps: engine steps of a round.
        progress: called with what is being done.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if model in SHAPES:
            make_config(Path(folder), **SHAPES[model])
        engines: dict[str, EngineProcess] = {}
        try:
            progress("starting the engines")
            for name in dict.fromkeys((PLAIN, *names)):
                options = ENGINES[name]
                engines[name] = EngineProcess(
                    {
                        "model": folder if model in SHAPES else model,
                        "load_format": "dummy" if model in SHAPES else "auto",
                        "dtype": dtype,
                        "longest": rounds * steps + 64,
                        "most_requests": max(requests),
                        "async_scheduling": options.get("async_scheduling", False),
                        "additional_config": {"redraft": {"budget": options["budget"]}}
                        if "budget" in options
                        else {},
                        "speculative_config": {
                            "method": "custom_class",
                            "model": options["proposer"],
                            "num_speculative_tokens": 8,
                        }
                        if "proposer" in options
                        else None,
                    }
                )
            for engine in engines.values():
                engine.answer()
            for count in requests:
                progress(f"{count} requests")
                rows += compare(engines, count, rounds, steps)
        finally:
            for engine in engines.values():
                engine.__exit__(None, None, None)
    return rows


def compare(engines: dict[str, EngineProcess], requests: int, rounds: int, steps: int) -> list[Row]:
    """Let engines, one of which is `PLAIN`, make steps with `requests` requests each; arguments as for `measure`."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    for order in ({"requests": requests}, *[{"steps": steps}] * rounds):
        for engine in engines.values():
            engine.send(order)
        for name, engine in engines.items():
            turns[name].append(engine.answer())
    turns = {name: mine[1:] for name, mine in turns.items()}
    cpu = {name: np.array([turn["cpu"] for turn in mine]) / steps for name, mine in turns.items()}
    rows = []
    for name, mine in turns.items():
        ratios = cpu[name] / cpu[PLAIN] - 1
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        parts = {
            part: float(np.mean([turn[part] for turn in mine])) / steps
            for part in ("drafting", "taking")
            if part in mine[0]
        }
        rows.append(
            Row(
                engine=name,
                requests=requests,
                cpu=float(np.median(cpu[name])),
                wall=float(np.median([turn["wall"] for turn in mine])) / steps,
                overhead=float(middle),
                error=float(1.2533 * (high - low) / 1.349 / np.sqrt(rounds)),
                drafting=parts.get("drafting"),
                taking=parts.get("taking"),
                plain=float(np.median(cpu[PLAIN])),
            )
        )
    return rows
