"""The proposers' cumulative counters, as the draft servers tell them, turned into what happened since last asked."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redraft.client import DraftClient
from redraft.errors import NotFound, RedraftError
from redraft.v1 import common_pb2

_LOG = logging.getLogger("redraft.recipe.verl")


Positions = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

SUMS = (
    "engine_steps",
    "steps",
    "emitted",
    "draft_seconds",
    "unavailable",
    "fetches",
    "fetch_seconds",
    "relayed",
    "relay_sent",
    "relay_lost",
    "relay_gaps",
    "relay_failures",
    "timed_seconds",
    "plain_seconds",
)
"""Fields of `Drafting` that grow, under the same names as in `redraft.recipe.vllm.reporting.Stats`."""

TOLD_TO_SERVERS = ("steps", "emitted", "draft_seconds", "unavailable")
"""Those of them that the draft servers are told of; when only they can be asked, the others stay 0."""


@dataclass
class Drafting:
    """What the proposers drafted, summed over engines."""

    by_source: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Source ("history", "live") -> (drafted, accepted) tokens."""
    by_position: Positions = field(default_factory=dict)
    """Source -> (drafted, accepted) tokens by position in the draft, first first."""
    engines: int = 0
    """Engines that draft (a level)."""
    engine_steps: int = 0
    """Engine steps of all engines."""
    steps: int = 0
    """Engine steps of single requests, those without a draft included."""
    emitted: int = 0
    """Tokens that these steps emitted."""
    draft_seconds: float = 0.0
    """Wall time spent in drafting."""
    unavailable: int = 0
    """Requests that did without history as no server answered."""
    index_bytes: int = 0
    """Memory of the indexes that the engines hold (a level, not a sum)."""
    fetches: int = 0
    """Calls that brought history, for several prompts each."""
    fetch_seconds: float = 0.0
    """Their time; no engine step waits for them."""
    relayed: int = 0
    """Tokens that came from siblings on other engines."""
    relay_sent: int = 0
    """Tokens that were sent to them."""
    relay_lost: int = 0
    """Relayed tokens that were dropped."""
    relay_gaps: int = 0
    """How often a sibling's text went on behind tokens that never came."""
    relay_failures: int = 0
    """Streams of the relay that ended with an error."""
    timed_seconds: float = 0.0
    """Time of decode steps whose plain time is estimated (a sample)."""
    plain_seconds: float = 0.0
    """That estimate."""
    known: bool = True
    """False when no server answered for part of the time: the other fields then miss something."""

    @property
    def drafted(self) -> int:
        """Drafted tokens of all sources."""
        return sum(drafted for drafted, _ in self.by_source.values())

    @property
    def accepted(self) -> int:
        """Accepted tokens of all sources."""
        return sum(accepted for _, accepted in self.by_source.values())

    def since(self, before: Drafting) -> Drafting:
        """Return what was drafted between `before` and this; all of it when engines were started anew."""
        if self.steps < before.steps:
            return self
        return Drafting(known=self.known).add(self).add(before, -1)

    def add(self, other: Drafting, sign: int = 1) -> Drafting:
        """Add `other` (sign 1) or take it away (sign -1) and return self; levels become those of the newer one."""
        for source, (drafted, accepted) in other.by_source.items():
            mine = self.by_source.get(source, (0, 0))
            self.by_source[source] = (mine[0] + sign * drafted, mine[1] + sign * accepted)
        for source, counts in other.by_position.items():
            known = self.by_position.get(source, ((), ()))
            self.by_position[source] = (
                _add(known[0], counts[0], sign),
                _add(known[1], counts[1], sign),
            )
        for name in SUMS:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))
        if sign > 0:
            self.index_bytes = other.index_bytes
            self.engines = other.engines
            self.known = self.known and other.known
        return self

    @classmethod
    def of_engines(cls, stats: Iterable[Mapping[str, Any]]) -> Drafting:
        """Return the sum of what proposers in the engines tell (fields of redraft.recipe.vllm.reporting.Stats)."""
        return cls._sum(
            cls(
                index_bytes=engine["index_bytes"],
                **_by_source(
                    {
                        source: (n, engine["accepted"].get(source, ()))
                        for source, n in engine["drafted"].items()
                    }
                ),
                **{name: engine[name] for name in SUMS if name in engine},
            )
            for engine in stats
        )

    @classmethod
    def of(cls, messages: Sequence[common_pb2.Acceptance]) -> Drafting:
        """Return the sum of several engines' counters."""
        return cls._sum(
            cls(
                index_bytes=message.index_bytes,
                **_by_source(
                    {source.source: (source.drafted, source.accepted) for source in message.sources}
                ),
                **{name: getattr(message, name) for name in TOLD_TO_SERVERS},
            )
            for message in messages
        )

    @classmethod
    def _sum(cls, parts: Iterable[Drafting]) -> Drafting:
        total = cls()
        for part in parts:
            levels = total.engines + 1, total.index_bytes + part.index_bytes
            total.add(part)
            total.engines, total.index_bytes = levels
        return total


def _by_source(counts: Mapping[str, tuple[Sequence[int], Sequence[int]]]) -> dict[str, Any]:
    """Return `by_source` and `by_position` of counts by position."""
    return {
        "by_source": {
            source: (sum(drafted), sum(accepted)) for source, (drafted, accepted) in counts.items()
        },
        "by_position": {
            source: (tuple(drafted), _add((0,) * len(drafted), tuple(accepted), 1))
            for source, (drafted, accepted) in counts.items()
        },
    }


def _add(mine: Sequence[int], theirs: Sequence[int], sign: int) -> tuple[int, ...]:
    return tuple(a + sign * b for a, b in itertools.zip_longest(mine, theirs, fillvalue=0))


class DraftingWatch:
    """Asks the draft servers how the proposers fare; a server that does not answer costs a log line and a count.

    Each engine reports to the first server that answers and keeps its counters from its start, so after a server
    died the same engine may be told of by two: the newer report, the one with more steps, holds. What was learnt
    from a server that is gone is not forgotten.

    Args:
        addresses: draft servers, host:port each.
        run: the run's name.
        timeout: longest wait for one server, in seconds.
    """

    def __init__(self, addresses: Sequence[str], run: str, *, timeout: float = 2.0) -> None:
        self.run = run
        self.failures = 0
        """Questions that no answer came to, since the start."""
        self._timeout = timeout
        self._addresses: Sequence[str] = addresses
        self._clients: list[DraftClient] = []
        self._use_addresses()
        self._down: set[str] = set()
        self._workers: dict[str, common_pb2.Acceptance] = {}
        self._seen = Drafting()

    def take(self) -> Drafting:
        """Return what was drafted since the last call (since the start at the first).

        When no server answers, what they would have told is part of a later answer, or lost with them.
        """
        self._use_addresses()
        answers = [self._ask(client) for client in self._clients]
        now = Drafting.of(list(self._workers.values()))
        now.known = any(answers)
        since, self._seen = now.since(self._seen), now
        return since

    def forget_from(self, step: int) -> None:
        """Have the servers drop responses of global step `step` and later ones: the trainer resumed before it."""
        self._use_addresses()
        for client in self._clients:
            try:
                gone = client.forget(self.run, from_step=step)
                if gone.responses:
                    _LOG.warning(
                        "%s: dropped %d responses of steps >= %d", client.address, gone.responses, step
                    )
            except NotFound:
                pass
            except RedraftError as error:
                self._failed(client, error)

    def stored(self) -> Mapping[str, int]:
        """Return address -> responses of the run that a server holds; servers that do not answer are missing."""
        self._use_addresses()
        held: dict[str, int] = {}
        for client in self._clients:
            try:
                held[client.address] = sum(run.responses for run in client.stats(self.run).runs)
            except NotFound:
                held[client.address] = 0
            except RedraftError as error:
                self._failed(client, error)
        return held

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Ask these servers from the next question on; may be called by another thread than the one that asks."""
        self._addresses = list(addresses)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    def _use_addresses(self) -> None:
        wanted = self._addresses
        known = {client.address: client for client in self._clients}
        self._clients = [known.get(a) or DraftClient(a, timeout=self._timeout) for a in wanted]
        for address in known.keys() - set(wanted):
            known[address].close()

    def _ask(self, client: DraftClient) -> bool:
        """Take over one server's counters; return whether it answered."""
        try:
            runs = client.stats(self.run).runs
        except NotFound:
            runs = []
        except RedraftError as error:
            self._failed(client, error)
            return False
        if client.address in self._down:
            self._down.discard(client.address)
            _LOG.warning("draft server %s answers again", client.address)
        for told in (worker for run in runs for worker in run.workers):
            known = self._workers.get(told.worker)
            if known is None or told.acceptance.steps >= known.steps:
                self._workers[told.worker] = told.acceptance
        return True

    def _failed(self, client: DraftClient, error: RedraftError) -> None:
        self.failures += 1
        if client.address not in self._down:
            self._down.add(client.address)
            _LOG.warning(
                "draft server %s does not answer, training goes on without it: %s", client.address, error
            )
