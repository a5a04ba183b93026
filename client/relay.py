"""Shares what siblings write with the other workers that serve their group, while they write it.

Nothing here is on the way of an engine step: `begin`, `advance` and `end` only queue what happened. A background
thread gathers it, at most every `interval` seconds, and sends what another worker's groups want; what others wrote
is appended to the group's live index as it arrives.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from redraft._core import LiveIndex
from redraft.at_exit import close_at_exit
from redraft.client.channels import run_message
from redraft.client.credentials import Credentials
from redraft.client.pace import Pace
from redraft.client.relay_groups import RelayedGroup, Sibling
from redraft.client.relay_link import RelayLink
from redraft.client.rendezvous import check_addresses, choose
from redraft.errors import InvalidArgument
from redraft.rollout import group_key, prompt_key
from redraft.v1 import relay_pb2
from redraft.vocabulary import Vocabulary
from redraft.wire import tokens_to_bytes

_LOG = logging.getLogger("redraft.client")

_AFTER_STEP = 0.005
"""How long the background thread lets an engine step alone that has just brought tokens, in seconds: threads that want
Python's lock at the same time slow each other down, and the step is soon on the device."""
_IDLE = 0.05
"""How often it is looked whether there is something to send although nothing new was written, in seconds."""

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RelayStats:
    """How relaying went so far. Sums unless they say otherwise."""

    sent_tokens: int
    """Tokens of own siblings that were sent."""
    received_tokens: int
    """Tokens of others' siblings that were added to live indexes."""
    dropped_tokens: int
    """Tokens not sent since too many waited, or not added since a live index was full."""
    missed_tokens: int
    """Tokens that servers did not send since this worker took them too slowly."""
    gaps: int
    """How often a sibling's text went on behind tokens that never came."""
    failures: int
    """Streams that ended with an error, failed tries to connect included."""
    groups: int
    """Groups served now."""
    shared_groups: int
    """Groups that another worker serves too now."""
    connected: int
    """Servers connected now."""
    last_error: str
    """Message of the newest failure; empty when there was none."""


class Relay:
    """A worker process's part in the live relay, for all its groups. Safe to call from several threads.

    A server that is gone costs one warning and the other workers' text; connecting goes on by itself.

    Args:
        addresses: servers as host:port; each prompt's groups belong to one of them.
        run: the run's name.
        vocabulary: the tokenizer's; None = unknown.
        interval: least time between two messages, in seconds, on average; after a pause two may follow each other.
        backlog_tokens: tokens of a group that may wait to be sent; beyond it the oldest are dropped and counted.
        group_tokens: tokens of others that are added to one group's live index at most.
        credentials: TLS and token; None takes them from the environment (`Credentials.from_environment`).

    Raises:
        InvalidArgument: no address or an odd one, an empty run, a number out of range.
        FailedPrecondition: the credentials' files cannot be read.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        run: str,
        vocabulary: Vocabulary | None = None,
        interval: float = 0.02,
        backlog_tokens: int = 1 << 18,
        group_tokens: int = 1_000_000,
        credentials: Credentials | None = None,
    ) -> None:
        self._addresses = check_addresses(addresses)
        if not run:
            raise InvalidArgument("run: must not be empty")
        for name, value in (("interval", interval), ("backlog_tokens", backlog_tokens)):
            if not value > 0:
                raise InvalidArgument(f"{name}: must be positive, got {value}")
        self.credentials = credentials or Credentials.from_environment()
        self.credentials.check(self._addresses)
        self.hello = relay_pb2.RelayRequest(
            run=run_message(run, vocabulary), worker=secrets.randbits(63) or 1
        )
        self.vocabulary_size = vocabulary.size if vocabulary is not None else 0
        self.lock = threading.RLock()
        self.stop = threading.Event()
        self._interval, self._backlog, self._limit = interval, backlog_tokens, group_tokens
        self._events: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = threading.Event()
        self._numbers = itertools.count()
        self._siblings: dict[int, tuple[RelayedGroup, Sibling]] = {}
        self.groups: dict[bytes, RelayedGroup] = {}
        self.counts = dict.fromkeys(
            ("sent_tokens", "received_tokens", "dropped_tokens", "missed_tokens", "gaps", "failures"), 0
        )
        self.last_error = ""
        self._links = {address: RelayLink(self, address) for address in self._addresses}
        self._pump_thread = threading.Thread(target=self._pump, name="redraft-relay", daemon=True)
        self._pump_thread.start()
        close_at_exit(self)

    def begin(
        self,
        sequence: int,
        prompt_token_ids: Int32Array,
        live: LiveIndex,
        token_ids: Int32Array | None = None,
        *,
        group_id: str = "",
    ) -> None:
        """Take note that a sibling starts; returns at once.

        Args:
            sequence: the caller's number for it; may be used again after `end`.
            prompt_token_ids: int32, shape (n,), n >= 1.
            live: the group's index; what others write is appended to it, from another thread.
            token_ids: int32, shape (m,): its response so far.
            group_id: keeps groups with equal prompts apart; empty: the prompt alone names the group.
        """
        self._tell(self._begin, sequence, prompt_token_ids, live, token_ids, group_id)

    def advance(self, sequences: Int32Array, token_ids: Int32Array, offsets: Int32Array) -> None:
        """Take note of what siblings wrote in an engine step; returns at once. Unknown siblings are ignored.

        Args:
            sequences: int32, shape (b,): their numbers. None of the three arrays may change afterwards.
            token_ids: int32, shape (t,): sibling i's are `[offsets[i]:offsets[i + 1]]`.
            offsets: int32, shape (b + 1,).
        """
        self._tell(self._advance, sequences, token_ids, offsets)

    def end(self, sequence: int) -> None:
        """Take note that a sibling ended; returns at once. The last one to end ends the group here."""
        self._tell(self._end, sequence)

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Use these servers from now on; groups that belong to another one now move there.

        Raises:
            InvalidArgument: no address or an odd one.
            FailedPrecondition: the token would travel unencrypted to one of them.
        """
        fresh = check_addresses(addresses)
        self.credentials.check(fresh)
        with self.lock:
            if fresh == self._addresses:
                return
            self._addresses = fresh
            for address in set(self._links) - set(fresh):
                self._links.pop(address).close()
            for address in set(fresh) - set(self._links):
                self._links[address] = RelayLink(self, address)
            for group in self.groups.values():
                address = choose(fresh, group.key)
                if address != group.address:
                    if group.address in self._links:
                        self._links[group.address].leave(group)
                    group.move(address)
                    self._links[address].needed.set()

    def stats(self) -> RelayStats:
        """Return how relaying went so far."""
        with self.lock:
            return RelayStats(
                **self.counts,
                groups=len(self.groups),
                shared_groups=sum(group.wanted for group in self.groups.values()),
                connected=sum(link.connected for link in self._links.values()),
                last_error=self.last_error,
            )

    @property
    def num_received(self) -> int:
        """Tokens of others' siblings that were added to live indexes; never blocks."""
        return self.counts["received_tokens"]

    def close(self) -> None:
        """Stop relaying; live indexes keep what arrived."""
        self.stop.set()
        self._woken.set()
        links = list(self._links.values())
        for link in links:
            link.close()
        for thread in (self._pump_thread, *(link.thread for link in links)):
            thread.join(2.0)

    def note(self, key: str, count: int = 1) -> None:
        """Add to a count."""
        with self.lock:
            self.counts[key] += count

    def _tell(self, handle: Callable[..., None], *arguments: Any) -> None:
        self._events.append((handle, arguments))
        if not self._woken.is_set():
            self._woken.set()

    # Below: the background thread that gathers and sends.

    def _pump(self) -> None:
        pace = Pace(self._interval)
        while not self.stop.is_set():
            # Between steps there may still be something to do: a new interest, a full letter box, a lost server.
            self._woken.wait(_IDLE if self.groups else None)
            self.stop.wait(max(_AFTER_STEP, pace.wait(time.monotonic())))
            self._woken.clear()
            pace.sent(time.monotonic())
            try:
                with self.lock:
                    for _ in range(len(self._events)):
                        handle, arguments = self._events.popleft()
                        handle(*arguments)
                    for link in self._links.values():
                        link.offer(self._backlog)
                    for group in [group for group in self.groups.values() if group.over]:
                        del self.groups[group.name]
            except Exception as error:  # relaying is optional: never let the thread die
                self.last_error = f"{type(error).__name__}: {error}"
                _LOG.warning("redraft: relaying failed in an unexpected way, going on: %r", error)
                _LOG.debug("traceback", exc_info=True)

    def _begin(
        self,
        sequence: int,
        prompt: Int32Array,
        live: LiveIndex,
        token_ids: Int32Array | None,
        group_id: str,
    ) -> None:
        key = prompt_key(prompt)
        name = group_key(key, group_id)
        group = self.groups.get(name)
        if group is not None and not np.array_equal(group.prompt, prompt):
            return  # another prompt with this key: it goes without a relay
        if group is None:
            group = RelayedGroup(name, key, prompt, group_id, live, self._limit, choose(self._addresses, key))
            self.groups[name] = group
            self._links[group.address].needed.set()
        group.use(live)
        sibling = Sibling(next(self._numbers))
        group.siblings[sibling.number] = sibling
        if token_ids is not None:
            group.write(sibling, tokens_to_bytes(token_ids))
        group.running.add(sequence)
        self._siblings[sequence] = (group, sibling)
        group.dirty = True

    def _advance(self, sequences: Int32Array, token_ids: Int32Array, offsets: Int32Array) -> None:
        data = tokens_to_bytes(token_ids)
        ends = (4 * offsets).tolist()
        for sequence, (begin, end) in zip(sequences.tolist(), itertools.pairwise(ends), strict=True):
            if begin != end and (found := self._siblings.get(sequence)) is not None:
                found[0].write(found[1], data[begin:end])

    def _end(self, sequence: int) -> None:
        group, _ = self._siblings.pop(sequence, (None, None))
        if group is not None:
            group.running.discard(sequence)
