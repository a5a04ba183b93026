"""`redraft bench acceptance`: how many tokens a step drafts bring on recorded rollouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from redraft.benchmarks.baselines import ABLATIONS, BASELINES, Redraft
from redraft.benchmarks.replay import Figures, Proposer, replay
from redraft.benchmarks.traces import Trace

SEARCH_ROUNDS = 7


@dataclass(frozen=True)
class Options:
    """How to replay."""

    concurrency: int = 256
    horizon: int = 32
    replay_prompts: int | None = None
    drafted_per_step: float | None = None
    min_survival: float = 0.2
    age_decay: float = 1.0
    reward_weight: float = 0.0


Runner = Callable[[Proposer], list[Figures]]


def run(
    trace: Trace,
    drafters: Sequence[str],
    options: Options,
    *,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Replay a trace with each drafter.

    Args:
        trace: the recorded responses.
        drafters: "redraft", names in `BASELINES` and in `ABLATIONS`.
        options: how to replay.
        progress: called with the number of tokens of each step.

    Returns:
        One entry for each drafter and epoch, the last epoch last.
    """
    runner = partial(
        replay,
        trace,
        concurrency=options.concurrency,
        horizon=options.horizon,
        replay_prompts=options.replay_prompts,
        progress=progress,
    )
    entries = []
    for name in drafters:
        for figures, threshold in _figures(name, options, runner):
            entries.append(
                {
                    "file": trace.name,
                    "drafter": name,
                    "concurrency": options.concurrency,
                    "min_survival": threshold,
                    **figures.result(),
                }
            )
    return entries


def _figures(name: str, options: Options, runner: Runner) -> list[tuple[Figures, float | None]]:
    make: Callable[[float], Proposer]
    if name in BASELINES:
        return [(figures, None) for figures in runner(BASELINES[name]())]
    if name in ABLATIONS:
        make = ABLATIONS[name]
    else:
        make = partial(Redraft, age_decay=options.age_decay, reward_weight=options.reward_weight)
    if options.drafted_per_step is None:
        return [(figures, options.min_survival) for figures in runner(make(options.min_survival))]
    return search(make, options.drafted_per_step, runner, options.min_survival)


def search(
    make: Callable[[float], Proposer], most: float, runner: Runner, first: float
) -> list[tuple[Figures, float | None]]:
    """Replay with the lowest threshold found whose last epoch drafts at most `most` tokens a step.

    One threshold holds for the whole replay: what an engine that pays a fixed price for a token would use. The
    spending falls as the threshold rises, so a few secant steps on logarithms find it.
    """
    low, high = math.log(1e-3), 0.0  # too much is spent at `low`, no more than allowed at `high`
    best: tuple[list[Figures], float] | None = None
    spent_low: float | None = None
    spent_high: float | None = None
    at = math.log(first)
    for _ in range(SEARCH_ROUNDS):
        threshold = math.exp(at)
        figures = runner(make(threshold))
        last = figures[-1]
        spent = last.drafted / max(1, last.steps)
        if spent <= most:
            if best is None or threshold <= best[1]:
                best = (figures, threshold)
            high, spent_high = at, spent
            if spent >= 0.995 * most:
                break
        else:
            low, spent_low = at, spent
        if spent_low is not None and spent_high:
            part = (math.log(spent_low) - math.log(0.998 * most)) / (
                math.log(spent_low) - math.log(spent_high)
            )
            at = low + min(0.95, max(0.05, part)) * (high - low)
        else:
            at += 0.8 * math.log(max(spent, 0.05) / most) + (0.05 if spent > most else -0.05)
            at = min(-1e-4, max(math.log(1e-3), at))
    if best is None:
        best = (runner(make(1.0)), 1.0)
    return [(figures, best[1]) for figures in best[0]]


def all_drafters(baselines: bool, ablations: bool) -> list[str]:
    """Return the names to replay, redraft first."""
    return ["redraft", *(BASELINES if baselines else ()), *(ABLATIONS if ablations else ())]
