"""The proposers' cumulative counters, as the draft servers tell them, turned into what happened since last asked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redraft.client import DraftClient
from redraft.errors import NotFound, RedraftError
from redraft.v1 import common_pb2

_LOG = logging.getLogger("redraft.recipe.verl")


@dataclass
class Drafting:
    """What the proposers drafted, summed over engines."""

    by_source: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Source ("history", "live") -> (drafted, accepted) tokens."""
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
        self.steps += sign * other.steps
        self.emitted += sign * other.emitted
        self.draft_seconds += sign * other.draft_seconds
        self.unavailable += sign * other.unavailable
        if sign > 0:
            self.index_bytes = other.index_bytes
            self.known = self.known and other.known
        return self

    @classmethod
    def of_engines(cls, stats: Iterable[Mapping[str, Any]]) -> Drafting:
        """Return the sum of what proposers in the engines tell (fields of redraft.recipe.vllm.reporting.Stats)."""
        total = cls()
        for engine in stats:
            accepted = engine["accepted"]
            part = cls(
                by_source={s: (sum(n), sum(accepted.get(s, ()))) for s, n in engine["drafted"].items()},
                **{k: engine[k] for k in ("steps", "emitted", "draft_seconds", "unavailable")},
            )
            level = total.index_bytes + engine["index_bytes"]
            total.add(part).index_bytes = level
        return total

    @classmethod
    def of(cls, messages: Sequence[common_pb2.Acceptance]) -> Drafting:
        """Return the sum of several engines' counters."""
        total = cls()
        for message in messages:
            part = cls(
                by_source={s.source: (sum(s.drafted), sum(s.accepted)) for s in message.sources},
                steps=message.steps,
                emitted=message.emitted,
                draft_seconds=message.draft_seconds,
                unavailable=message.unavailable,
            )
            level = total.index_bytes + message.index_bytes
            total.add(part).index_bytes = level
        return total


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
        self._clients = [DraftClient(address, timeout=timeout) for address in addresses]
        self._down: set[str] = set()
        self._workers: dict[str, common_pb2.Acceptance] = {}
        self._seen = Drafting()

    def take(self) -> Drafting:
        """Return what was drafted since the last call (since the start at the first).

        When no server answers, what they would have told is part of a later answer, or lost with them.
        """
        answers = [self._ask(client) for client in self._clients]
        now = Drafting.of(list(self._workers.values()))
        now.known = any(answers)
        since, self._seen = now.since(self._seen), now
        return since

    def forget_from(self, step: int) -> None:
        """Have the servers drop responses of global step `step` and later ones: the trainer resumed before it."""
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
        held: dict[str, int] = {}
        for client in self._clients:
            try:
                held[client.address] = sum(run.responses for run in client.stats(self.run).runs)
            except NotFound:
                held[client.address] = 0
            except RedraftError as error:
                self._failed(client, error)
        return held

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

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
