"""What the server tells Prometheus: one registry for each server, so that several can live in one process.

Figures that a part keeps anyway (the shelf, the history, the acceptance book) are read when they are asked for; what
only passes by (calls, builds, published groups) is counted here. A part with figures of its own, such as a relay of
live tokens with its lag and drops, makes its metrics on `Metrics.registry` or registers a collector there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from redraft._version import __version__
from redraft.server.acceptance import AcceptanceBook
from redraft.server.history import Appended, GroupRecord, History
from redraft.server.indexes import IndexShelf

_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BUILD_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts what passes by. Safe to use from several threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        """Where everything that /metrics shows is registered."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._groups = self._counter("ingested_groups", "Published groups that were stored.")
        self._responses = self._counter(
            "ingested_responses", "Published responses that were accepted, by what became of them.", "outcome"
        )
        self._tokens = self._counter(
            "ingested_tokens", "Tokens of the responses in stored groups, re-sent ones too."
        )
        self._refused_groups = self._counter(
            "refused_groups", "Published groups that were refused, by status code.", "code"
        )
        self._refused_calls = self._counter(
            "refused_calls", "Calls refused by a limit, by the limit's name.", "limit"
        )
        self._sent_bytes = self._counter("sent_index_bytes", "Bytes of indexes sent to clients.")
        self._open_calls = Gauge(
            "redraft_open_calls", "Calls that are being answered.", ["method"], registry=self.registry
        )
        self._call_seconds = Histogram(
            "redraft_call_seconds",
            "Time from a call's start to its end, streams included, by method and status code.",
            ["method", "code"],
            buckets=_CALL_SECONDS,
            registry=self.registry,
        )
        self._build_seconds = Histogram(
            "redraft_index_build_seconds",
            "Time to read a prompt's window and build its index.",
            buckets=_BUILD_SECONDS,
            registry=self.registry,
        )
        for outcome in ("stored", "replaced", "unchanged"):  # shown from the start, as zero
            self._responses.labels(outcome)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"redraft_{name}", text, labels, registry=self.registry)

    def count_stored(self, group: GroupRecord, result: Appended) -> None:
        """Count a published group that is durable."""
        self._groups.inc()
        self._tokens.inc(sum(response.token_ids.size for response in group.responses))
        for outcome in ("stored", "replaced", "unchanged"):
            self._responses.labels(outcome).inc(getattr(result, outcome))

    def count_refused_group(self, code: str) -> None:
        """Count a published group that was refused with a status code, by its name."""
        self._refused_groups.labels(code).inc()

    def count_refused_call(self, limit: str) -> None:
        """Count a call that a limit refused."""
        self._refused_calls.labels(limit).inc()

    def count_sent(self, nbytes: int) -> None:
        """Count bytes of an index that went to a client."""
        self._sent_bytes.inc(nbytes)

    def count_build(self, seconds: float) -> None:
        """Count a built index."""
        self._build_seconds.observe(seconds)

    def begin_call(self, method: str) -> float:
        """Count a call as open; return its start for `end_call`."""
        self._open_calls.labels(method).inc()
        return time.perf_counter()

    def end_call(self, method: str, code: str, started: float) -> None:
        """Count a call as ended with a status code, by its name."""
        self._open_calls.labels(method).dec()
        self._call_seconds.labels(method, code).observe(time.perf_counter() - started)


class Levels(Collector):
    """Reads what the parts hold, at every scrape.

    Args:
        history: the store.
        directory: where it lies, for the free space of its disk.
        shelf: the built indexes.
        budget: memory for them, in bytes.
        waiting: tells how many prompts wait to be indexed ahead of need.
        acceptance: what workers reported.
    """

    def __init__(
        self,
        history: History,
        directory: Path,
        shelf: IndexShelf,
        budget: int,
        waiting: Callable[[], int],
        acceptance: AcceptanceBook,
    ) -> None:
        self._history = history
        self._directory = directory
        self._shelf = shelf
        self._budget = budget
        self._waiting = waiting
        self._acceptance = acceptance
        self._started = time.time()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are only known after a look at the parts."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the levels of now."""
        yield _gauge("build", "Always 1; the version is in the label.", 1, version=__version__)
        yield _gauge("start_time_seconds", "When the server was made, in seconds since 1970.", self._started)
        yield _gauge("store_bytes", "Size of the history on disk.", self._history.nbytes)
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError:
            free = 0  # the directory is gone: nothing can be written any more
        yield _gauge("store_free_bytes", "Free space of the disk that holds the history.", free)
        yield _count("damaged_records", "Stored records found damaged and skipped.", self._history.damaged)
        yield _gauge("indexes", "Built indexes in memory.", len(self._shelf))
        yield _gauge("index_bytes", "Memory of the built indexes.", self._shelf.nbytes)
        yield _gauge("index_budget_bytes", "Memory that built indexes may take.", self._budget)
        yield _gauge("waiting_builds", "Prompts that wait to be indexed ahead of need.", self._waiting())
        counts = self._shelf.counts()
        yield _count("index_evictions", "Indexes dropped to stay within the budget.", counts.evictions)
        wanted = CounterMetricFamily(
            "redraft_index_requests",
            "Wanted indexes: hit = in memory, miss = built for the asker, not_modified = the asker had it, "
            "absent = no history, failed.",
            labels=["outcome"],
        )
        for outcome in ("hits", "misses", "not_modified", "absent", "failed"):
            wanted.add_metric([_SINGULAR.get(outcome, outcome)], getattr(counts, outcome))
        yield wanted
        yield from self._drafting()

    def _drafting(self) -> Iterator[Metric]:
        steps = CounterMetricFamily(
            "redraft_verify_steps", "Verification steps that workers reported.", labels=["run"]
        )
        emitted = CounterMetricFamily("redraft_emitted_tokens", "Tokens that they emitted.", labels=["run"])
        unavailable = CounterMetricFamily(
            "redraft_unavailable_requests",
            "Requests that had to do without history since no server answered.",
            labels=["run"],
        )
        drafted = CounterMetricFamily(
            "redraft_drafted_tokens", "Drafted tokens that workers reported.", labels=["run", "source"]
        )
        accepted = CounterMetricFamily(
            "redraft_accepted_tokens", "Accepted ones of them.", labels=["run", "source"]
        )
        for run in self._acceptance.runs():
            total = self._acceptance.total(run)
            if total is None:
                continue  # forgotten meanwhile
            steps.add_metric([run], total.steps)
            emitted.add_metric([run], total.emitted)
            unavailable.add_metric([run], total.unavailable)
            for source in total.sources:
                drafted.add_metric([run, source.source], sum(source.drafted))
                accepted.add_metric([run, source.source], sum(source.accepted))
        yield from (steps, emitted, unavailable, drafted, accepted)


_SINGULAR = {"hits": "hit", "misses": "miss"}


def _gauge(name: str, text: str, value: float, **labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"redraft_{name}", text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _count(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"redraft_{name}", text, value=value)
