"""What the comparison with plain decoding measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Measurement:
    """One timed generation."""

    seconds: float
    tokens: int
    """Tokens generated."""
    drafted: int
    accepted: int
    steps: int
    """Steps of a request in which it had a draft."""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens a second of wall time."""
        return self.tokens / self.seconds


@dataclass
class Pair:
    """Both sides of one comparison, round by round."""

    epoch: int
    concurrency: int
    temperature: float
    drafting: list[Measurement] = field(default_factory=list)
    plain: list[Measurement] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Median over the rounds, with drafting."""
        return median(m.tokens_per_second for m in self.drafting)

    @property
    def plain_tokens_per_second(self) -> float:
        """Median over the rounds, without."""
        return median(m.tokens_per_second for m in self.plain)

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens per step that verified a draft, bonus token included; None without any."""
        steps = sum(m.steps for m in self.drafting)
        return 1 + sum(m.accepted for m in self.drafting) / steps if steps else None
