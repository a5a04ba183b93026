"""What the relay tells Prometheus, read at every scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from redraft.server.relay import RelayCounts

_LEVELS = {
    "streams": ("redraft_relay_streams", "Workers whose relay stream is open."),
    "groups": ("redraft_relay_groups", "Groups that the relay holds."),
    "shared_groups": ("redraft_relay_shared_groups", "Groups that two or more workers serve."),
    "held_bytes": ("redraft_relay_held_bytes", "Memory of the relayed text."),
    "lag_seconds": (
        "redraft_relay_lag_seconds",
        "The longest that tokens waited to be sent on, in the last second or two.",
    ),
}
_SUMS = {
    "received_tokens": ("redraft_relay_received_tokens", "Siblings' tokens that workers sent."),
    "sent_tokens": ("redraft_relay_sent_tokens", "Siblings' tokens sent on to other workers."),
    "dropped_tokens": (
        "redraft_relay_dropped_tokens",
        "Tokens that a worker did not get since it took them too slowly.",
    ),
}


class RelayLevels(Collector):
    """Reads what the relay counts.

    Args:
        counts: tells it.
    """

    def __init__(self, counts: Callable[[], RelayCounts]) -> None:
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not look at the relay."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of now."""
        counts = self._counts()
        for field, (name, text) in _LEVELS.items():
            yield GaugeMetricFamily(name, text, value=getattr(counts, field))
        for field, (name, text) in _SUMS.items():
            yield CounterMetricFamily(name, text, value=getattr(counts, field))
