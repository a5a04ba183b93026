"""What a second is worth: the emitted tokens that steps have brought of late, over plain decoding's.

Drafting as many tokens as make each step's tokens a second greatest is not the best of all steps: a step that promises
much should be made longer and one that promises little shorter, until another second brings as much in both, which is
what steps bring on average (W. Dinkelbach, On nonlinear fractional programming, Management Science 13, 1967). From any
rate to begin with, steps that are chosen by the rate which the steps before reached come to the same one, as what is
reached by a rate that is too high or too low is between that and the best; so there is no hysteresis in it.
"""

from __future__ import annotations

MEMORY = 256
"""Steps remembered."""
ENOUGH = 16
"""Steps from which on the rate is believed; before, each step stands for itself."""


class GoingRate:
    """Tokens that a step brought over those that plain decoding would have brought in its time, by requests.

    Numbers of requests count together between two powers of two. Deterministic; not thread-safe.
    """

    def __init__(self) -> None:
        self._sums: dict[int, list[float]] = {}  # steps, emitted, plain decoding's, decaying

    def observe(self, requests: int, emitted: float, relative_seconds: float) -> None:
        """Take in a step: `relative_seconds` > 0 is its time over that of a plain step with as many requests."""
        sums = self._sums.setdefault(requests.bit_length(), [0.0, 0.0, 0.0])
        for i, value in enumerate((1.0, emitted, requests * relative_seconds)):
            sums[i] += value - sums[i] / MEMORY

    def gain(self, requests: int) -> float:
        """Return how many times plain decoding's tokens a second steps have brought, never less than 1; 0 where too
        few were seen."""
        steps, emitted, plain = self._sums.get(requests.bit_length(), (0.0, 0.0, 0.0))
        return max(1.0, emitted / plain) if steps >= ENOUGH else 0.0
