"""Workers' acceptance reports, kept in memory: they are figures to look at, not history."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest

from redraft.v1 import common_pb2

_COUNTS = ("steps", "emitted", "draft_seconds", "unavailable")
_MAX_RUNS, _MAX_EPOCHS, _MAX_WORKERS = 1000, 10_000, 10_000
_MAX_COUNT = 2**64 - 1


@dataclass(slots=True)
class _Run:
    last: OrderedDict[str, tuple[common_pb2.Acceptance, float]] = field(default_factory=OrderedDict)
    epochs: defaultdict[int, common_pb2.Acceptance] = field(
        default_factory=lambda: defaultdict(common_pb2.Acceptance)
    )
    total: common_pb2.Acceptance = field(default_factory=common_pb2.Acceptance)


class AcceptanceBook:
    """Adds up what workers report. Safe to call from several threads.

    Reports are cumulative; what a worker's counters grew by since its last report is added to the run and to the
    report's epoch. A worker whose counters shrank has started again: all of its report is new. After a restart of
    the server a worker's first report counts in full, in the epoch that it names.
    """

    def __init__(self) -> None:
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._lock = threading.Lock()

    def report(self, run: str, worker: str, epoch: int | None, counters: common_pb2.Acceptance) -> None:
        """Take one worker's counters."""
        with self._lock:
            book = self._runs.setdefault(run, _Run())
            self._runs.move_to_end(run)
            if len(self._runs) > _MAX_RUNS:
                self._runs.popitem(last=False)
            before = book.last[worker][0] if worker in book.last else common_pb2.Acceptance()
            if counters.steps < before.steps or counters.emitted < before.emitted:
                before = common_pb2.Acceptance()
            growth = _subtract(counters, before)
            _add(book.total, growth)
            if epoch is not None:
                _add(book.epochs[epoch], growth)
                if len(book.epochs) > _MAX_EPOCHS:
                    del book.epochs[min(book.epochs)]
            book.last[worker] = (counters, time.monotonic())
            book.last.move_to_end(worker)
            if len(book.last) > _MAX_WORKERS:
                book.last.popitem(last=False)

    def runs(self) -> list[str]:
        """Return the names of the runs that were reported for."""
        with self._lock:
            return list(self._runs)

    def total(self, run: str) -> common_pb2.Acceptance | None:
        """Return the sum over all workers of a run; its index_bytes are what they hold now."""
        with self._lock:
            if run not in self._runs:
                return None
            total = common_pb2.Acceptance()
            total.CopyFrom(self._runs[run].total)
            total.index_bytes = sum(counters.index_bytes for counters, _ in self._runs[run].last.values())
            return total

    def epochs(self, run: str) -> dict[int, common_pb2.Acceptance]:
        """Return a copy of the sums of each epoch."""
        with self._lock:
            return {epoch: _copy(counters) for epoch, counters in self._peek(run).epochs.items()}

    def workers(self, run: str) -> list[tuple[str, common_pb2.Acceptance, float]]:
        """Return each worker's name, last report and the report's age in seconds, by name."""
        now = time.monotonic()
        with self._lock:
            return sorted(
                ((name, counters, now - at) for name, (counters, at) in self._peek(run).last.items()),
                key=lambda row: row[0],
            )

    def forget(self, run: str) -> None:
        """Drop a run's reports."""
        with self._lock:
            self._runs.pop(run, None)

    def _peek(self, run: str) -> _Run:
        return self._runs[run] if run in self._runs else _Run()


def _copy(counters: common_pb2.Acceptance) -> common_pb2.Acceptance:
    copy = common_pb2.Acceptance()
    copy.CopyFrom(counters)
    return copy


def _subtract(after: common_pb2.Acceptance, before: common_pb2.Acceptance) -> common_pb2.Acceptance:
    growth = common_pb2.Acceptance()
    for name in _COUNTS:
        setattr(growth, name, max(getattr(after, name) - getattr(before, name), 0))
    old = {source.source: source for source in before.sources}
    for source in after.sources:
        known = old.get(source.source, common_pb2.SourceAcceptance())
        growth.sources.add(
            source=source.source,
            drafted=_combine(source.drafted, known.drafted, -1),
            accepted=_combine(source.accepted, known.accepted, -1),
        )
    return growth


def _add(total: common_pb2.Acceptance, growth: common_pb2.Acceptance) -> None:
    for name in _COUNTS:
        setattr(total, name, min(getattr(total, name) + getattr(growth, name), _MAX_COUNT))
    known = {source.source: source for source in total.sources}
    for source in growth.sources:
        into = known.get(source.source) or total.sources.add(source=source.source)
        into.drafted[:] = _combine(into.drafted, source.drafted, 1)
        into.accepted[:] = _combine(into.accepted, source.accepted, 1)


def _combine(left: Iterable[int], right: Iterable[int], sign: int) -> list[int]:
    return [min(max(a + sign * b, 0), _MAX_COUNT) for a, b in zip_longest(left, right, fillvalue=0)]
