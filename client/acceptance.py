"""A worker's acceptance counters, sent to the server now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc

from redraft.client.channels import Channels
from redraft.client.credentials import Credentials
from redraft.client.rendezvous import check_addresses, order
from redraft.errors import InvalidArgument
from redraft.v1 import common_pb2, stats_pb2

_LOG = logging.getLogger("redraft.client")


@dataclass(slots=True)
class Counters:
    """What one worker's verification steps amounted to, cumulative since it started."""

    steps: int = 0
    """Verification steps of single requests, those without a draft included."""
    emitted: int = 0
    """Tokens these steps emitted, bonus tokens included."""
    drafted: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Source ("history", "live") -> drafted tokens by position in the draft."""
    accepted: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Source -> accepted tokens by position in the draft."""
    draft_seconds: float = 0.0
    """Wall time spent in drafting, in seconds."""
    index_bytes: int = 0
    """Memory of the indexes held now, in bytes (a level, not a sum)."""
    unavailable: int = 0
    """Requests that had to do without history since no server answered."""

    def to_message(self) -> common_pb2.Acceptance:
        """Return the protocol's Acceptance."""
        return common_pb2.Acceptance(
            steps=self.steps,
            emitted=self.emitted,
            sources=[
                common_pb2.SourceAcceptance(
                    source=source,
                    drafted=[int(n) for n in drafted],
                    accepted=[int(n) for n in self.accepted.get(source, ())],
                )
                for source, drafted in self.drafted.items()
            ],
            draft_seconds=self.draft_seconds,
            index_bytes=self.index_bytes,
            unavailable=self.unavailable,
        )


class AcceptanceReporter:
    """Sends one worker's counters to the first server that answers, at most every `interval` seconds.

    `report` only stores the newest counters; a background thread sends them. As counters are cumulative, a lost
    report costs nothing once a later one arrives. Safe to call from several threads.

    Args:
        addresses: servers as host:port.
        run: the run's name.
        worker: the worker's name, unique within the run and new when the worker starts again.
        interval: least time between two reports, in seconds.
        timeout: longest wait for one call, in seconds.
        credentials: TLS and token; None takes them from the environment (`Credentials.from_environment`).

    Raises:
        InvalidArgument: no address or an odd one, an empty run or worker.
        FailedPrecondition: the credentials' files cannot be read.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        run: str,
        worker: str,
        interval: float = 0.5,
        timeout: float = 5.0,
        credentials: Credentials | None = None,
    ) -> None:
        self._addresses = order(check_addresses(addresses), worker.encode())
        if not run:
            raise InvalidArgument("run: must not be empty")
        if not worker:
            raise InvalidArgument("worker: must not be empty")
        self._run, self._worker = run, worker
        self._credentials = credentials or Credentials.from_environment()
        self._credentials.check(self._addresses)
        self._interval, self._timeout = interval, timeout
        self._newest: tuple[Callable[[], Counters], int | None] | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._busy = False
        self._sent = 0
        self._warned = False
        self._thread = threading.Thread(target=self._work, name="redraft-acceptance", daemon=True)
        self._thread.start()

    def report(self, counters: Counters | Callable[[], Counters], *, epoch: int | None = None) -> None:
        """Hand over the newest counters (or a function that reads them when they are sent); returns at once.

        Args:
            counters: cumulative since the worker started.
            epoch: the epoch that the tokens since the last report belong to, if known.
        """
        read = counters if callable(counters) else lambda: counters
        with self._wake:
            self._newest = (read, epoch)
            self._wake.notify_all()

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Report to these servers from now on.

        Raises:
            InvalidArgument: no address or an odd one.
            FailedPrecondition: the token would travel unencrypted to one of them.
        """
        fresh = order(check_addresses(addresses), self._worker.encode())
        self._credentials.check(fresh)
        self._addresses = fresh

    @property
    def sent(self) -> int:
        """Reports that a server acknowledged."""
        return self._sent

    def flush(self, timeout: float) -> bool:
        """Wait until the newest counters were sent or given up; False when `timeout` seconds passed before that."""
        with self._wake:
            return self._wake.wait_for(lambda: self._newest is None and not self._busy, timeout)

    def close(self, timeout: float = 2.0) -> None:
        """Try to send the newest counters for at most `timeout` seconds, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)

    def _work(self) -> None:
        channels = Channels(self._credentials)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._newest is not None or self._closing)
                if self._newest is None:
                    break
                (read, epoch), self._newest = self._newest, None
                self._busy = True
            sent = self._send(channels, read, epoch)
            with self._wake:
                self._busy = False
                self._sent += sent
                self._wake.notify_all()
                if self._wake.wait_for(lambda: self._closing, self._interval) and self._newest is None:
                    break
        channels.close()

    def _send(self, channels: Channels, read: Callable[[], Counters], epoch: int | None) -> bool:
        try:
            request = stats_pb2.ReportAcceptanceRequest(
                run=self._run, worker=self._worker, epoch=epoch, acceptance=read().to_message()
            )
        except Exception:
            _LOG.exception("redraft: acceptance counters could not be read; this report is left out")
            return False
        error: grpc.RpcError | None = None
        for address in self._addresses:
            try:
                stub = channels.stub(address)
                stub.ReportAcceptance(request, timeout=self._timeout)
            except grpc.RpcError as failure:
                error = failure
            else:
                self._warned = False
                return True
        if not self._warned and error is not None:
            self._warned = True
            _LOG.warning(
                "redraft: no draft server takes acceptance reports (%s: %s); going on without",
                error.code().name,
                error.details(),
            )
        return False
