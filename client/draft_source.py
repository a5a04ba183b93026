"""Fetches prompts' frozen indexes in the background and shares each among all requests of its group."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import tenacity

from redraft._core import FrozenIndex
from redraft.at_exit import close_at_exit
from redraft.client.channels import RETRYABLE, Channels, run_message
from redraft.client.credentials import Credentials
from redraft.client.held_indexes import Entry, HeldIndexes
from redraft.client.index_stream import assemble, keep_freed_memory
from redraft.client.shards import Shards
from redraft.errors import DataLoss, InvalidArgument, RedraftError
from redraft.rollout import prompt_key
from redraft.v1 import common_pb2, index_pb2
from redraft.vocabulary import Vocabulary
from redraft.wire import tokens_to_bytes

_LOG = logging.getLogger("redraft.client")
_HEADER = index_pb2.IndexHeader

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class DraftSourceStats:
    """How fetching went so far. Counts are prompts unless they say otherwise."""

    fetched: int
    """Indexes received and accepted."""
    not_modified: int
    """Answers that the held index is the newest."""
    no_history: int
    """Answers that there is nothing for the prompt (yet)."""
    corrupt: int
    """Blobs that were refused."""
    unavailable: int
    """Fetches that failed since no server answered (they are tried again)."""
    refused: int
    """Fetches that the server refused for good."""
    evicted: int
    """Indexes dropped to stay within `memory_bytes`."""
    waiting: int
    """Prompts waiting for an answer now."""
    held: int
    """Indexes held now."""
    held_bytes: int
    """Their memory, in bytes."""
    fetched_bytes: int
    """Bytes received."""
    calls: int
    """Calls that succeeded, for several prompts each."""
    fetch_seconds: float
    """Time spent in these calls, in seconds."""
    last_error: str
    """Message of the newest failure; empty when there was none."""


class DraftSource:
    """Holds the frozen indexes of the prompts that are being rolled out.

    `prefetch` queues a fetch; `get` looks into what has arrived and never blocks. Unreachable servers cost one
    warning and no history drafts; fetching goes on by itself when they return. Safe to call from several threads.

    Args:
        addresses: servers as host:port; each prompt belongs to one of them.
        run: the run's name.
        vocabulary: the tokenizer's; None = unknown.
        memory_bytes: indexes held at most, in bytes; the least recently used go first.
        refresh_seconds: a prompt is not asked for again within this time of its last answer.
        timeout: longest wait for one call, in seconds.
        credentials: TLS and token; None takes them from the environment (`Credentials.from_environment`).
        batch: most prompts of one call.

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
        memory_bytes: int = 2 << 30,
        refresh_seconds: float = 1.0,
        timeout: float = 30.0,
        batch: int = 64,
        credentials: Credentials | None = None,
    ) -> None:
        if not run:
            raise InvalidArgument("run: must not be empty")
        if memory_bytes <= 0:
            raise InvalidArgument(f"memory_bytes: must be positive, got {memory_bytes}")
        if batch <= 0:
            raise InvalidArgument(f"batch: must be positive, got {batch}")
        self._run = run_message(run, vocabulary)
        self._memory_bytes, self._refresh = memory_bytes, refresh_seconds
        self._timeout, self._batch = timeout, batch
        self._credentials = credentials or Credentials.from_environment()
        self._shards = Shards(addresses, self._work, "redraft-fetch", self._credentials)
        self._changed = threading.Condition()
        self._held = HeldIndexes(memory_bytes)
        self._queues: dict[str, deque[Entry]] = {address: deque() for address in self._shards.addresses}
        self._stop = threading.Event()
        self._counts = dict.fromkeys(
            (
                "fetched",
                "not_modified",
                "no_history",
                "corrupt",
                "unavailable",
                "refused",
                "fetched_bytes",
                "calls",
            ),
            0,
        )
        self._fetch_seconds = 0.0
        self._last_error = ""
        self._said: set[str] = set()
        self._calls: dict[str, Any] = {}
        keep_freed_memory()
        self._shards.start()
        close_at_exit(self)

    def prefetch(self, prompt_token_ids: Sequence[int] | Int32Array) -> None:
        """Ask for a prompt's index in the background, unless that is under way; returns at once.

        Args:
            prompt_token_ids: shape (n,), n >= 1.
        """
        ids = np.ascontiguousarray(prompt_token_ids, dtype=np.int32)
        if self._stop.is_set() or not ids.size:
            return
        key = prompt_key(ids)
        with self._changed:
            entry = self._held.entry(key, ids)
            if entry.wanted or time.monotonic() - entry.asked < self._refresh:
                return
            entry.wanted = True
            self._queues[self._shards.owner(key)].append(entry)
            self._changed.notify_all()

    def get(self, prompt_token_ids: Sequence[int] | Int32Array) -> FrozenIndex | None:
        """Return the newest index that has arrived for a prompt, or None; never blocks.

        Args:
            prompt_token_ids: shape (n,); compared token by token on a hit.
        """
        ids = np.ascontiguousarray(prompt_token_ids, dtype=np.int32)
        key = prompt_key(ids)
        with self._changed:
            return self._held.find(key, ids)

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Fetch from these servers from now on; what waits for one that is gone is asked of its prompt's new owner.

        An index that a former owner sent is held until the new one has history for its prompt.

        Raises:
            InvalidArgument: no address or an odd one.
            FailedPrecondition: the token would travel unencrypted to one of them.
        """
        fresh = self._shards.check(addresses)
        with self._changed:
            if self._stop.is_set():
                return
            gone, calls = self._shards.replace(fresh, self._queues, self._calls)
            self._said.difference_update(f"down {address}" for address in gone)
            self._changed.notify_all()
        for call in calls:
            call.cancel()

    @property
    def arrivals(self) -> int:
        """Grows whenever an index arrives or is replaced: while it stands still, `get` has nothing new."""
        return self._held.arrivals

    @property
    def available(self) -> bool:
        """False while a server does not answer."""
        return not any(topic.startswith("down ") for topic in self._said)

    def wait(self, timeout: float) -> bool:
        """Wait until no fetch is under way or waiting; False when `timeout` seconds passed before that."""
        with self._changed:
            return self._changed.wait_for(lambda: not any(e.wanted for e in self._held), timeout)

    @property
    def held_bytes(self) -> int:
        """Memory of the indexes held, in bytes. Cheap, unlike `stats`, which looks at every prompt."""
        return self._held.nbytes

    @property
    def unavailable(self) -> int:
        """Fetches that failed since no server answered. Cheap."""
        return self._counts["unavailable"]

    @property
    def fetches(self) -> tuple[int, float]:
        """Calls that brought answers, and their time in seconds. Cheap."""
        with self._changed:
            return self._counts["calls"], self._fetch_seconds

    def stats(self) -> DraftSourceStats:
        """Return how fetching went so far."""
        with self._changed:
            return DraftSourceStats(
                **self._counts,
                evicted=self._held.evicted,
                waiting=sum(entry.wanted for entry in self._held),
                held=sum(entry.index is not None for entry in self._held),
                held_bytes=self._held.nbytes,
                fetch_seconds=self._fetch_seconds,
                last_error=self._last_error,
            )

    def close(self) -> None:
        """Stop fetching. Indexes handed out stay valid."""
        self._stop.set()
        with self._changed:
            threads = self._shards.stop()
            self._changed.notify_all()
        for call in list(self._calls.values()):
            call.cancel()
        for thread in threads:
            thread.join(1.0)

    # Below: each address's thread.

    def _work(self, address: str, stop: threading.Event) -> None:
        channels = Channels(self._credentials)
        queue = self._queues[address]
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda e: isinstance(e, grpc.RpcError) and e.code() in RETRYABLE
            ),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            stop=tenacity.stop_when_event_set(stop),
            sleep=tenacity.sleep_using_event(stop),
            after=lambda state: self._note_failure(address, state),
            reraise=True,
        )
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: queue or stop.is_set())
                batch = [queue.popleft() for _ in range(min(len(queue), self._batch))]
            try:
                retrying(self._fetch, channels, address, batch)
            except grpc.RpcError as error:
                self._refuse(address, batch, error)
            except RedraftError as error:
                self._note("broken", f"redraft: {error}; no history for these prompts")
            except Exception as error:  # drafts are optional: never let the thread die
                self._note("broken", f"redraft: fetching failed in an unexpected way: {error!r}")
                _LOG.debug("traceback", exc_info=True)
            finally:
                self._finish(address, batch)
        channels.close()

    def _fetch(self, channels: Channels, address: str, batch: list[Entry]) -> None:
        """Fetch the batch; entries answered before a failure are not asked for again by the next try."""
        open_entries = [entry for entry in batch if entry.wanted]
        for attempt in range(2):
            if not open_entries:
                return
            open_entries = self._fetch_once(channels, address, open_entries, last=attempt == 1)

    def _fetch_once(
        self, channels: Channels, address: str, entries: list[Entry], *, last: bool
    ) -> list[Entry]:
        """Make one call and return the entries whose blob was corrupt and is worth one more."""
        request = index_pb2.FetchIndexRequest(
            run=self._run,
            prompts=[
                index_pb2.WantedIndex(
                    prompt=common_pb2.Prompt(token_ids=tokens_to_bytes(entry.token_ids), key=entry.key),
                    revision=entry.revision if entry.address == address else 0,
                )
                for entry in entries
            ],
        )
        started = time.monotonic()
        answers = self._calls[address] = channels.fetch(address)(request, timeout=self._timeout)
        corrupt: list[Entry] = []
        try:
            for position, header, blob in assemble(answers, len(entries), self._memory_bytes):
                entry = entries[position]
                # Before anybody can see the answer: once `wait` returns, `available` is true.
                with self._changed:
                    self._said.discard(f"down {address}")
                try:
                    self._accept(address, entry, header, blob)
                except DataLoss as error:
                    self._note("corrupt", f"redraft: refused a corrupt index: {error}")
                    with self._changed:
                        self._counts["corrupt"] += 1
                        entry.revision, entry.address = (header.revision if last else 0), address
                        if last:  # hold nothing rather than ask for the same bytes for ever
                            self._held.replace(entry, None, 0)
                            entry.wanted = False
                    if not last:
                        corrupt.append(entry)
        finally:
            answers.cancel()
        with self._changed:
            self._counts["calls"] += 1
            self._fetch_seconds += time.monotonic() - started
        return corrupt

    def _accept(
        self,
        address: str,
        entry: Entry,
        header: index_pb2.IndexHeader,
        blob: npt.NDArray[np.uint8] | None,
    ) -> None:
        index = FrozenIndex.from_buffer(blob.data) if blob is not None else None
        with self._changed:
            if index is not None and blob is not None:
                self._counts["fetched"] += 1
                self._counts["fetched_bytes"] += blob.nbytes
                entry.revision, entry.address = header.revision, address
                self._held.replace(entry, index, index.nbytes)
                self._held.evict()
            elif header.outcome == _HEADER.OUTCOME_NOT_MODIFIED:
                self._counts["not_modified"] += 1
            elif header.outcome == _HEADER.OUTCOME_NO_HISTORY:
                self._counts["no_history"] += 1
                if entry.address == address:  # what another server sent is better than nothing
                    entry.revision = 0
                    self._held.replace(entry, None, 0)
            else:
                self._counts["refused"] += 1
                self._last_error = header.message
            entry.wanted = False

    def _finish(self, address: str, batch: list[Entry]) -> None:
        with self._changed:
            if address not in self._queues and not self._stop.is_set():  # it is not in the list any more
                self._shards.route([entry for entry in batch if entry.wanted], self._queues)
                self._changed.notify_all()
                return
            now = time.monotonic()
            for entry in batch:
                entry.wanted = False
                entry.asked = now
            self._changed.notify_all()

    def _refuse(self, address: str, batch: list[Entry], error: grpc.RpcError) -> None:
        if self._called_off(address):
            return
        if error.code() not in RETRYABLE:
            self._said.discard(f"down {address}")
        if error.code() is grpc.StatusCode.NOT_FOUND:  # nothing was published to this run yet
            with self._changed:
                self._counts["no_history"] += len(batch)
            return
        with self._changed:
            self._counts["refused"] += len(batch)
        self._note(error.code().name, f"redraft: the server refuses to send indexes: {error.details()}")

    def _note_failure(self, address: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if self._called_off(address):
            return
        if isinstance(error, grpc.RpcError) and error.code() in RETRYABLE:
            with self._changed:
                self._counts["unavailable"] += len(state.args[2])
            text = f"{error.code().name}: {error.details()}"
            self._note(
                f"down {address}", f"redraft: no history drafts from {address} for now ({text}); trying again"
            )

    def _called_off(self, address: str) -> bool:
        """Return whether a call failed since nobody wants its answer any more."""
        return self._stop.is_set() or address not in self._queues

    def _note(self, topic: str, message: str) -> None:
        with self._changed:
            self._last_error = message
            if topic in self._said:
                return
            self._said.add(topic)
        _LOG.warning(message)
