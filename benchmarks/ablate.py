"""`redraft bench ablate`: what each ingredient of the drafter is worth, at equal spending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redraft.benchmarks.acceptance import Options, Progress, run
from redraft.benchmarks.baselines import ABLATIONS
from redraft.benchmarks.traces import Trace

NOTHING = 0.002
"""Relative gain that counts for nothing: what another threshold or another order of prompts makes as well."""


def ablate(
    trace: Trace, options: Options, names: Sequence[str] = (), *, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Replay a trace with everything, then without each ingredient in turn, drafting no more than with everything.

    Args:
        trace: the recorded responses.
        options: how to replay; without `drafted_per_step`, what everything drafts at `min_survival` is the bound.
        names: of `ABLATIONS`; empty for all that can make a difference on this trace.
        progress: see `run`.

    Returns:
        Entries as of `run`, of the last epoch only, and in each: `gain`, tokens per step of everything over those
        without the ingredient, less 1 (of a variant: what it loses against everything); `changes`, whether the entry
        is of a variant (another weight) rather than of an ingredient left out.
    """
    chosen = list(names) or [name for name in ABLATIONS if applies(name, trace)]

    def all_of(drafter: str, done: float) -> None:
        if progress is not None:
            progress(drafter, done / (len(chosen) + 1))

    whole = run(trace, ["redraft"], options, progress=all_of)[-1]
    entries = [whole | {"gain": 0.0, "changes": False}]
    bound = options.drafted_per_step or whole["drafted_per_step"]
    bounded = replace(options, drafted_per_step=bound, min_survival=whole["min_survival"])
    for place, name in enumerate(chosen, 1):

        def part_of(drafter: str, done: float, place: int = place) -> None:
            if progress is not None:
                progress(drafter, (place + done) / (len(chosen) + 1))

        entry = run(trace, [name], bounded, progress=part_of)[-1]
        gain = whole["tokens_per_step"] / entry["tokens_per_step"] - 1
        entries.append(entry | {"gain": gain, "changes": not name.startswith("without")})
    return entries


def applies(name: str, trace: Trace) -> bool:
    """Return whether an ablation can change anything on a trace."""
    rewards = {response.reward for response in trace.responses}
    epochs = {response.epoch for response in trace.responses}
    if name.startswith("reward"):
        return len(rewards) > 1 and len(epochs) > 1
    if name.startswith("age"):
        return len(epochs) > 2
    if name == "last epoch only":
        return len(epochs) > 2
    if name == "without prefix routing":
        return any(response.spans for response in trace.responses)
    return True


def useless(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the ingredients that gain nothing on any file."""
    gains: dict[str, float] = {}
    for entry in results:
        if entry["drafter"] != "redraft" and not entry["changes"]:
            gains[entry["drafter"]] = max(entry["gain"], gains.get(entry["drafter"], float("-inf")))
    return [name for name, gain in gains.items() if gain < NOTHING]
