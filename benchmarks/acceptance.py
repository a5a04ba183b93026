"""`redraft bench acceptance`: how many tokens a step drafts bring on recorded rollouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from redraft.benchmarks.baselines import ABLATIONS, BASELINES, TUNED
from redraft.benchmarks.drafters import Redraft
from redraft.benchmarks.figures import Figures
from redraft.benchmarks.replay import Proposer, replay
from redraft.benchmarks.traces import Trace
from redraft.errors import InvalidArgument

SEARCH_ROUNDS = 7
SPENT = 0.99
"""Share of what may be spent that is near enough to it."""
DRAFTERS = ("redraft", "plain", "own", "last-epoch", "siblings", "suffix", "oracle")
"""redraft, and the baselines in the order in which they are shown."""


@dataclass(frozen=True)
class Options:
    """How to replay."""

    concurrency: int = 256
    horizon: int = 32
    replay_prompts: int | None = None
    drafted_per_step: float | None = None
    min_survival: float = 0.2
    policy: str = "blend"
    age_decay: float = 1.0
    reward_weight: float = 0.0


Runner = Callable[[Proposer], list[Figures]]
Progress = Callable[[str, float], None]
"""Called with the drafter and how much of all work is done, from 0 to 1."""


def run(
    trace: Trace, drafters: Sequence[str], options: Options, *, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Replay a trace with each drafter.

    Args:
        trace: the recorded responses.
        drafters: "redraft", names in `BASELINES`, `TUNED` and `ABLATIONS`.
        options: how to replay.
        progress: see `Progress`.

    Returns:
        One entry for each drafter and epoch, the last epoch last.

    Raises:
        InvalidArgument: a drafter is unknown.
    """
    for name in drafters:
        if name not in all_drafters():
            raise InvalidArgument(f"drafter: {name} is unknown; there are {', '.join(all_drafters())}")
    limit = options.replay_prompts
    tokens = sum(e - b for r in trace.responses if limit is None or r.prompt < limit for b, e in r.turns)
    entries = []
    for place, name in enumerate(drafters):
        rounds = SEARCH_ROUNDS if options.drafted_per_step is not None and name not in BASELINES else 1
        watch = None
        if progress is not None:
            progress(name, place / len(drafters))
            watch = _Watch(
                progress, name, place / len(drafters), 1 / (max(1, tokens) * rounds * len(drafters))
            )
        runner = partial(
            replay,
            trace,
            concurrency=options.concurrency,
            horizon=options.horizon,
            replay_prompts=options.replay_prompts,
            progress=watch,
        )
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


@dataclass
class _Watch:
    progress: Progress
    name: str
    done: float
    each: float

    def __call__(self, tokens: int) -> None:
        self.done += tokens * self.each
        self.progress(self.name, min(1.0, self.done))


def _maker(name: str, options: Options) -> Callable[[float], Proposer]:
    """Return what makes a drafter with a threshold."""
    if name in TUNED:
        return TUNED[name]
    if name in ABLATIONS:
        return ABLATIONS[name]
    return partial(
        Redraft,
        policy=options.policy,
        age_decay=options.age_decay,
        reward_weight=options.reward_weight,
    )


def _figures(name: str, options: Options, runner: Runner) -> list[tuple[Figures, float | None]]:
    if name in BASELINES:
        return [(figures, None) for figures in runner(BASELINES[name]())]
    make = _maker(name, options)
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
            if spent >= SPENT * most or at <= math.log(1e-3):
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


def all_drafters() -> list[str]:
    """Return the names of all that can be replayed, redraft first."""
    return [*DRAFTERS, *ABLATIONS]
