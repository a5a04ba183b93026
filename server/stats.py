"""What GetStats answers, and with it `redraft stats` and the status page: what is held and how drafts fare."""

from __future__ import annotations

import time
from collections.abc import Callable

from redraft._version import __version__
from redraft.errors import NotFound
from redraft.server.acceptance import AcceptanceBook
from redraft.server.history import History, RunRecord
from redraft.server.indexes import IndexShelf
from redraft.server.relay import RelayCounts
from redraft.v1 import common_pb2, stats_pb2


class Stats:
    """Gathers the figures of one server from its parts. Safe to use from several threads.

    Args:
        history: what is stored.
        shelf: what is indexed.
        acceptance: what workers reported.
        relay: tells how the relay fares.
        refused_groups: tells how many published groups were refused since the start.
    """

    def __init__(
        self,
        history: History,
        shelf: IndexShelf,
        acceptance: AcceptanceBook,
        relay: Callable[[], RelayCounts],
        refused_groups: Callable[[], int],
    ) -> None:
        self._history, self._shelf, self._acceptance = history, shelf, acceptance
        self._relay, self._refused_groups = relay, refused_groups
        self._started = time.monotonic()

    def answer(self, only: str = "") -> stats_pb2.GetStatsResponse:
        """Return the figures of one run or (empty name) of all.

        Raises:
            NotFound: there is no such run.
        """
        stored = {run.name: run for run in self._history.runs()}
        names = sorted({*stored, *self._acceptance.runs()})
        if only:
            if only not in names:
                raise NotFound(f"run: there is no run {only!r}")
            names = [only]
        response = stats_pb2.GetStatsResponse(server=self._server())
        for name in names:
            response.runs.append(self._run(name, stored.get(name)))
        return response

    def _server(self) -> stats_pb2.ServerStats:
        counts = self._shelf.counts()
        relay = self._relay()
        return stats_pb2.ServerStats(
            version=__version__,
            uptime_seconds=time.monotonic() - self._started,
            store_bytes=self._history.nbytes,
            index_bytes=self._shelf.nbytes,
            indexes=len(self._shelf),
            index_builds=counts.builds,
            index_build_seconds=counts.build_seconds,
            index_hits=counts.hits,
            index_not_modified=counts.not_modified,
            index_evictions=counts.evictions,
            refused_groups=self._refused_groups(),
            damaged_records=self._history.damaged,
            relay=stats_pb2.RelayStats(
                streams=relay.streams,
                groups=relay.groups,
                shared_groups=relay.shared_groups,
                held_bytes=relay.held_bytes,
                received_tokens=relay.received_tokens,
                sent_tokens=relay.sent_tokens,
                dropped_tokens=relay.dropped_tokens,
                lag_seconds=relay.lag_seconds,
            ),
        )

    def _run(self, name: str, run: RunRecord | None) -> stats_pb2.RunStats:
        stats = stats_pb2.RunStats(run=common_pb2.Run(name=name), acceptance=self._acceptance.total(name))
        epochs = {epoch: stats_pb2.EpochStats(epoch=epoch) for epoch in self._acceptance.epochs(name)}
        if run is not None:
            stats.run.vocabulary.size = run.vocabulary.size
            stats.run.vocabulary.fingerprint = run.vocabulary.fingerprint
            summary = self._history.summary(run)
            stats.prompts, stats.responses, stats.tokens = summary.prompts, summary.responses, summary.tokens
            for held in summary.epochs:
                epochs[held.epoch] = stats_pb2.EpochStats(
                    epoch=held.epoch,
                    responses=held.responses,
                    tokens=held.tokens,
                    rewarded=held.rewarded,
                    reward_sum=held.reward_sum,
                )
        for epoch, counters in self._acceptance.epochs(name).items():
            epochs.setdefault(epoch, stats_pb2.EpochStats(epoch=epoch)).acceptance.CopyFrom(counters)
        stats.epochs.extend(epochs[epoch] for epoch in sorted(epochs))
        for worker, counters, age in self._acceptance.workers(name):
            stats.workers.add(worker=worker, acceptance=counters, age_seconds=age)
        return stats
