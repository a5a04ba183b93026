"""What an agent loop's requests to the engines came to, one attempt after the other.

verl's asynchronous trainers abort requests for a weight update and send them again with what was generated as part
of the prompt. Its client merges the attempts into one output and drops what the engine said of speculation in each;
its tool agent loop keeps of later turns no more than their newest weight version. So our clients (`llm_client`) note
every attempt in the list that the agent loop worker opened for its trajectory.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from redraft.recipe.verl.tally import SPEC_KEYS


@dataclass(frozen=True)
class Attempt:
    """One request to an engine."""

    tokens: int
    """Tokens that it generated."""
    version: int | None
    """Weights that generated the last of them: the trainer's global step when they were sent; None: not told."""
    counters: tuple[int, int, int] | None
    """(drafted, accepted, steps that verified a draft); None: not told, as for an aborted request."""

    @classmethod
    def of(cls, output: Any) -> Attempt:
        """Return what verl's TokenOutput says."""
        fields = output.extra_fields
        version = fields.get("global_steps")
        told = [fields.get(key) for key in SPEC_KEYS]
        counters = None if None in told else (int(told[0]), int(told[1]), int(told[2]))
        return cls(len(output.token_ids), None if version is None else int(version), counters)


_ATTEMPTS: ContextVar[list[Attempt] | None] = ContextVar("redraft_attempts", default=None)


def open_trajectory() -> list[Attempt]:
    """Return the list that the attempts of this task, and of tasks that it starts, are noted in from now on."""
    attempts: list[Attempt] = []
    _ATTEMPTS.set(attempts)
    return attempts


def close_trajectory() -> list[Attempt]:
    """Return what was noted for this task's trajectory; [] when none was opened."""
    return _ATTEMPTS.get() or []


def note(output: Any) -> None:
    """Note an attempt's TokenOutput for this task's trajectory, if one was opened."""
    attempts = _ATTEMPTS.get()
    if attempts is not None:
        attempts.append(Attempt.of(output))
