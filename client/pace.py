"""When a background thread that gathers may send again."""

from __future__ import annotations


class Pace:
    """Holds a rate on average, so that a message that went late does not make the next one late.

    With a least time between two messages instead, whatever comes about once an interval never makes up for a delay:
    each one stays, and the next adds to it. This is the generic cell rate algorithm (ITU-T I.371) with a tolerance of
    one interval. Times are those of any clock, in seconds. Not thread-safe.

    Args:
        interval: average time between two messages, > 0.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due = float("-inf")

    def wait(self, now: float) -> float:
        """Return how long the next message has to wait, at least 0."""
        return max(self._due - now, 0.0)

    def sent(self, now: float) -> None:
        """Take note that a message was sent."""
        self._due = max(self._due, now - self._interval) + self._interval
