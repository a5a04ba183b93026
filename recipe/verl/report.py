"""From counts to figures: metrics of a step, a validation and an epoch, and the file that holds them."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from redraft.recipe.verl.tally import Tally
from redraft.recipe.verl.watch import Drafting


@dataclass
class Period:
    """Rollouts and drafting of a step, a validation or an epoch."""

    tally: Tally = field(default_factory=Tally)
    drafting: Drafting = field(default_factory=Drafting)
    generation_seconds: float = 0.0

    def add(self, other: Period) -> Period:
        """Add `other` and return self; the seconds of separate generations add up."""
        self.tally.merge(other.tally)
        self.drafting.add(other.drafting)
        self.generation_seconds += other.generation_seconds
        return self

    @classmethod
    def of(cls, tally: Tally, drafting: Drafting) -> Period:
        """Return the period of one dispatch."""
        return cls(tally, drafting, tally.generation_seconds or 0.0)

    def figures(self) -> dict[str, Any]:
        """Return what doc/metrics.md says of a line of the metrics file; None for what is not known.

        The engine's own counters of each trajectory come first; a vLLM without them leaves the proposers'.
        """
        tally, drafting = self.tally, self.drafting
        if tally.metered_tokens:
            drafted, accepted = tally.drafted, tally.accepted
            length, per_step = tally.mean_acceptance_length, tally.tokens_per_step
        else:
            drafted, accepted = drafting.drafted, drafting.accepted
            per_step = drafting.emitted / drafting.steps if drafting.steps else None
            length = per_step
        seconds = self.generation_seconds
        asked = drafting.engine_steps > 0  # the engines themselves; draft servers know less
        return {
            "mean_acceptance_length": length,
            "tokens_per_step": per_step,
            "acceptance_rate": accepted / drafted if drafted else None,
            "drafted": drafted,
            "accepted": accepted,
            "by_source": {
                s: {"drafted": d, "accepted": a} for s, (d, a) in sorted(drafting.by_source.items())
            },
            "by_position": {
                s: {"drafted": list(d), "accepted": list(a)}
                for s, (d, a) in sorted(drafting.by_position.items())
            },
            "budget_used": drafting.drafted / drafting.engine_steps if asked else None,
            "draft_seconds": drafting.draft_seconds,
            "draft_share": drafting.draft_seconds / (drafting.engines * seconds)
            if drafting.engines and seconds > 0
            else None,
            "index_bytes": drafting.index_bytes,
            "unavailable": drafting.unavailable,
            "fetches": drafting.fetches if asked else None,
            "fetch_latency": drafting.fetch_seconds / drafting.fetches if drafting.fetches else None,
            "relay_received": drafting.relayed if asked else None,
            "relay_sent": drafting.relay_sent if asked else None,
            "relay_lost": drafting.relay_lost if asked else None,
            "relay_gaps": drafting.relay_gaps if asked else None,
            "relay_failures": drafting.relay_failures if asked else None,
            "estimated_saving": 1 - drafting.timed_seconds / drafting.plain_seconds
            if drafting.plain_seconds > 0
            else None,
            "generated_tokens": tally.generated_tokens,
            "generation_seconds": seconds,
            "tokens_per_second": tally.generated_tokens / seconds if seconds > 0 else None,
        }


FIGURES: dict[str, str] = {
    "mean_acceptance_length": "tokens",
    "tokens_per_step": "tokens",
    "acceptance_rate": "share",
    "drafted": "tokens",
    "accepted": "tokens",
    "accepted_share/<source>": "share",
    "source/<source>/drafted": "tokens",
    "source/<source>/accepted": "tokens",
    "source/<source>/acceptance_rate": "share",
    "position/<position>/acceptance_rate": "share",
    "budget_used": "tokens",
    "draft_seconds": "seconds",
    "draft_share": "share",
    "index_bytes": "bytes",
    "unavailable": "fetches",
    "fetches": "calls",
    "fetch_latency": "seconds",
    "relay_received": "tokens",
    "relay_sent": "tokens",
    "relay_lost": "tokens",
    "relay_gaps": "times",
    "relay_failures": "streams",
    "estimated_saving": "share",
    "generated_tokens": "tokens",
    "generation_seconds": "seconds",
    "tokens_per_second": "tokens/second",
}
"""Every metric that `as_metrics` makes, with its unit; doc/metrics.md says what they mean. `<source>` is "history",
"live" or "shared", `<position>` counts from 1, the first token of a draft."""


def as_metrics(figures: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the known figures as verl metrics named `prefix`/<name of `FIGURES`>."""
    metrics = {k: float(v) for k, v in figures.items() if isinstance(v, (int, float))}
    sources = figures.get("by_source", {})
    accepted = sum(counts["accepted"] for counts in sources.values())
    for source, counts in sources.items():
        if accepted:
            metrics[f"accepted_share/{source}"] = counts["accepted"] / accepted
        if counts["drafted"]:
            metrics.update({f"source/{source}/{k}": float(v) for k, v in counts.items()})
            metrics[f"source/{source}/acceptance_rate"] = counts["accepted"] / counts["drafted"]
    positions = figures.get("by_position", {}).values()
    columns = [
        [sum(column) for column in itertools.zip_longest(*(p[kind] for p in positions), fillvalue=0)]
        for kind in ("drafted", "accepted")
    ]
    for i, (drafted, taken) in enumerate(zip(*columns, strict=True)):
        if drafted:
            metrics[f"position/{i + 1}/acceptance_rate"] = taken / drafted
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


class MetricsFile:
    """Appends one JSON object a line, flushed, so that another process can follow the run.

    Args:
        path: the file; its folder is made. None: nothing is written.
        run: the run's name, part of every line.
    """

    def __init__(self, path: str | None, run: str) -> None:
        self._run = run
        self._file: TextIO | None = None
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the trainer

    def write(self, kind: str, **values: Any) -> None:
        """Write one line; what JSON cannot say (NaN, infinity) becomes null."""
        if self._file is None:
            return
        line = {"kind": kind, "time": time.time(), "run": self._run, **values}
        self._file.write(json.dumps(_plain(line)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    number = float(value)  # NumPy and torch scalars too
    return number if math.isfinite(number) else None
