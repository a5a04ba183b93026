"""What the proposer counted, and the background thread that reports it."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from logging import Logger

import numpy as np
import numpy.typing as npt

from redraft._core import SOURCE_HISTORY, SOURCE_LIVE, SOURCE_SHARED
from redraft.recipe.vllm.options import Options

Int64Array = npt.NDArray[np.int64]

SOURCES = {"history": SOURCE_HISTORY, "live": SOURCE_LIVE, "shared": SOURCE_SHARED}
"""Names of the sources -> their row in the core's counts."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the proposer started; levels are as of now."""

    engine_steps: int
    """Calls of `propose`."""
    steps: int
    """Verification steps of single requests, those without a draft included."""
    emitted: int
    """Tokens that these steps emitted, bonus tokens included."""
    drafted: dict[str, list[int]]
    """Source -> drafted tokens by position in the draft."""
    accepted: dict[str, list[int]]
    """Source -> accepted tokens by position in the draft."""
    draft_seconds: float
    """Wall time spent in `propose`, in seconds."""
    index_bytes: int
    """Bytes of live indexes, history indexes and the drafter's own state (a level)."""
    unavailable: int
    """Fetches that failed since no server answered."""
    requests: int
    """Requests known to run (a level)."""
    groups: int
    """Prompts with running requests (a level)."""
    relayed: int
    """Tokens of siblings that came from other workers."""
    relay_sent: int = 0
    """Tokens of this engine's requests that were sent to other workers' siblings."""
    relay_lost: int = 0
    """Relayed tokens that were dropped somewhere: too many waited, or an index was full."""
    relay_gaps: int = 0
    """How often a sibling's text went on behind tokens that never came."""
    relay_failures: int = 0
    """Streams of the relay that ended with an error, failed tries to connect included."""
    fetches: int = 0
    """Calls that brought answers for history, several prompts each."""
    fetch_seconds: float = 0.0
    """Their time, in seconds; no engine step waits for them."""
    timed_seconds: float = 0.0
    """Time of the decode steps that `plain_seconds` is an estimate for, in seconds; a sample of all steps."""
    plain_seconds: float = 0.0
    """Time in which plain decoding would have emitted as much, estimated from what steps were found to cost. 0 until
    steps with and without drafts were seen."""
    granted: int = 0
    """Draft tokens of the last step, all requests together (a level)."""
    saving: float = 0.0
    """Share of plain decoding's time that drafting saved, estimated: 1 - `timed_seconds` / `plain_seconds`; negative
    when it cost time, 0 while unknown."""
    step_costs: list[tuple[int, int, float]] = field(default_factory=list)
    """Budget "auto": what is believed of a step's cost: requests, draft tokens of the batch, seconds."""

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens emitted per verification step, bonus token included; 0 before the first."""
        return self.emitted / self.steps if self.steps else 0.0

    @property
    def acceptance_rate(self) -> float:
        """Accepted over drafted tokens; 0 when none was drafted."""
        drafted = sum(map(sum, self.drafted.values()))
        return sum(map(sum, self.accepted.values())) / drafted if drafted else 0.0

    def __str__(self) -> str:
        by_source = ", ".join(f"{sum(self.accepted[name])} from {name}" for name in SOURCES)
        return (
            f"{self.mean_acceptance_length:.2f} tokens a step over {self.steps} steps, "
            f"{100 * self.acceptance_rate:.1f} % of the drafted tokens accepted ({by_source}), "
            f"{1e3 * self.draft_seconds / max(1, self.engine_steps):.3f} ms of drafting an engine step, "
            f"{self.index_bytes / 2**20:.1f} MiB of indexes"
            + (
                f", {100 * self.saving:.1f} % less time than plain decoding (estimated)"
                if self.plain_seconds
                else ""
            )
        )


def by_source(counts: Int64Array) -> dict[str, list[int]]:
    """Return the core's counts, int64, shape (sources, positions), by the source's name."""
    return {name: counts[row].tolist() for name, row in SOURCES.items()}


class Housekeeping:
    """A background thread: reports accept counts, logs them, and does what needs no engine step.

    Args:
        options: addresses, run and intervals.
        read: returns the counts so far.
        keep_house: the proposer's own work that needs no engine step.
        logger: where the lines go.
    """

    def __init__(
        self, options: Options, read: Callable[[], Stats], keep_house: Callable[[], None], logger: Logger
    ) -> None:
        self._options = options
        self._read = read
        self._keep_house = keep_house
        self._logger = logger
        self._stop = threading.Event()
        self._report: Callable[[], None] | None = None
        self._close: Callable[[], None] | None = None
        self._set_addresses: Callable[[Sequence[str]], None] | None = None
        if options.addresses:
            from redraft.client import AcceptanceReporter, Counters

            reporter = AcceptanceReporter(
                options.addresses,
                run=options.run,
                worker=f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
                interval=options.report_seconds,
            )

            def counters() -> Counters:
                stats = read()
                return Counters(
                    steps=stats.steps,
                    emitted=stats.emitted,
                    drafted=stats.drafted,
                    accepted=stats.accepted,
                    draft_seconds=stats.draft_seconds,
                    index_bytes=stats.index_bytes,
                    unavailable=stats.unavailable,
                )

            self._report = lambda: reporter.report(counters)
            self._close = reporter.close
            self._set_addresses = reporter.set_addresses
        self._thread = threading.Thread(target=self._work, name="redraft-housekeeping", daemon=True)
        self._thread.start()

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Report to these servers from now on."""
        if self._set_addresses is not None:
            self._set_addresses(addresses)

    def close(self) -> None:
        """Send a last report and stop."""
        self._stop.set()
        self._thread.join()
        if self._close is not None:
            self._close()

    def _work(self) -> None:
        reported = logged = -1
        since_log = 0.0
        stopping = False
        while not stopping:
            stopping = self._stop.wait(self._options.report_seconds)
            since_log += self._options.report_seconds
            try:
                self._keep_house()
                stats = self._read()
                if self._report is not None and stats.steps != reported:
                    reported = stats.steps
                    self._report()
                if 0 < self._options.log_seconds <= since_log and stats.steps not in (logged, 0):
                    logged, since_log = stats.steps, 0.0
                    self._logger.info("redraft: %s", stats)
            except Exception:
                self._logger.exception("redraft: housekeeping failed; going on")
