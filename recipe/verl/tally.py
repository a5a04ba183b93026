"""What the agent loops count about finished rollouts, and the sums that figures are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

SPEC_KEYS = ("spec_num_draft_tokens", "spec_num_accepted_tokens", "spec_num_verify_steps")
"""verl's names for the engine's speculation counters of one trajectory; its tool agent loop sums them over turns."""


class Slot(NamedTuple):
    """Rollouts that are counted together: one dispatch of the trainer."""

    validation: bool
    step: int
    """The trainer's global step that dispatched them, >= 0."""
    epoch: int
    """Pass over the training data, >= 0."""


@dataclass
class Tally:
    """Sums over the rollouts of one slot; times are seconds since 1970."""

    trajectories: int = 0
    generated_tokens: int = 0
    """Tokens that the engine wrote; tool output is not among them."""
    metered_tokens: int = 0
    """Those of them whose trajectories carry the engine's speculation counters."""
    drafted: int = 0
    accepted: int = 0
    verify_steps: int = 0
    """Engine steps that verified a draft."""
    rewarded: int = 0
    reward_sum: float = 0.0
    started: float | None = None
    """When the first of them began to generate."""
    ended: float | None = None
    """When the last agent loop ended."""

    def merge(self, other: Tally) -> Tally:
        """Add `other` to this tally and return it; the span covers both."""
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if item.name == "started":
                self.started = _pick(min, mine, theirs)
            elif item.name == "ended":
                self.ended = _pick(max, mine, theirs)
            else:
                setattr(self, item.name, mine + theirs)
        return self

    @property
    def generation_seconds(self) -> float | None:
        """From the first request to the end of the last agent loop; None while unknown."""
        if self.started is None or self.ended is None:
            return None
        return max(self.ended - self.started, 0.0)

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens per engine step that verified a draft, bonus token included; None without any such step."""
        return 1.0 + self.accepted / self.verify_steps if self.verify_steps else None

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens per engine step of one request.

        A step emits one token and those it accepted, so there were metered_tokens - accepted steps; a response that
        ends inside an accepted draft makes this an upper bound by less than a step a response.
        """
        steps = self.metered_tokens - self.accepted
        return self.metered_tokens / steps if steps > 0 else None

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted / drafted tokens; None when nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def reward(self) -> float | None:
        """Mean reward of the trajectories that have one."""
        return self.reward_sum / self.rewarded if self.rewarded else None


def merge_slots(parts: Iterable[dict[Slot, Tally]]) -> dict[Slot, Tally]:
    """Return the sum of what several agent loop workers counted."""
    total: dict[Slot, Tally] = {}
    for part in parts:
        for slot, tally in part.items():
            total.setdefault(slot, Tally()).merge(tally)
    return total


def _pick(choose: Callable[[list[float]], float], a: float | None, b: float | None) -> float | None:
    values = [v for v in (a, b) if v is not None]
    return choose(values) if values else None
