"""The live relay: tells workers that serve the same group what the others' siblings write, while they write it.

A worker's stream costs one thread of the pool, which sends, and one of its own, which receives. What a worker has not
taken yet stays in the group's log and nowhere else: a slow worker holds up nobody and costs no memory of its own.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from redraft.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from redraft.rollout import group_key
from redraft.server.config import LimitsConfig, RelayConfig
from redraft.server.history import Int32Array, RunRecord
from redraft.server.ingest import check_prompt
from redraft.server.relay_groups import Group, check_relayed
from redraft.v1 import common_pb2, relay_pb2
from redraft.vocabulary import Vocabulary

_MESSAGE_BYTES = 1 << 20
"""About how much one message carries, in bytes."""
_COALESCE = 0.005
"""Least time between two messages to a worker, in seconds: what several workers write goes out together."""
_SWEEP = 1.0
"""How often groups and workers are looked at that have gone quiet, in seconds."""
_MAX_GROUP_ID = 200

RelayedGroup: TypeAlias = "Group[RelayStream]"
RunOf = Callable[[common_pb2.Run], tuple[str, Vocabulary]]
"""Returns a run's name and what is known of its vocabulary; raises what the client is to be told."""


@dataclass(frozen=True, slots=True)
class RelayCounts:
    """How the relay fares. Sums count from the start of the server."""

    streams: int
    """Workers connected now."""
    groups: int
    """Groups held now."""
    shared_groups: int
    """Groups that two or more workers serve now."""
    held_bytes: int
    """Memory of the groups' text now, in bytes."""
    received_tokens: int
    """Tokens taken from workers, repeated ones not counted."""
    sent_tokens: int
    """Tokens sent to workers."""
    dropped_tokens: int
    """Tokens that a worker did not get since it took them too slowly."""
    lag_seconds: float
    """The longest that tokens waited to be sent in the last second or two, in seconds."""


class RelayHub:
    """All groups and streams of the relay. Safe to use from several threads.

    Args:
        limits: bounds on what a worker may send.
        config: how much text is held, and for how long.
    """

    def __init__(self, limits: LimitsConfig, config: RelayConfig) -> None:
        self.limits = limits
        self.config = config
        self.lock = threading.Lock()
        self._groups: OrderedDict[tuple[str, bytes], RelayedGroup] = (
            OrderedDict()
        )  # touched longest ago first
        self._streams: dict[RelayStream, tuple[str, Vocabulary]] = {}
        self._nbytes = self._received = self._sent = self._dropped = 0
        self._lag = [0.0, 0.0]
        self._stop = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="redraft-relay", daemon=True)
        self._sweeper.start()

    def serve(self, requests: Iterator[relay_pb2.RelayRequest], run_of: RunOf) -> Iterator[bytes]:
        """Answer one worker's stream with serialized `RelayResponse`s.

        Raises:
            InvalidArgument: a field is malformed.
            NotFound: tokens for a group that was not joined.
            FailedPrecondition: the run has another vocabulary.
            ResourceExhausted: too many streams or groups.
            Unavailable: the server stops, or the worker was not heard of for too long.
        """
        stream = RelayStream(self, run_of)
        with self.lock:
            if self._stop.is_set():
                raise Unavailable("server: is stopping")
            if len(self._streams) >= self.config.streams:
                raise ResourceExhausted(f"relay_streams: more than {self.config.streams} are open")
            self._streams[stream] = ("", Vocabulary())
        threading.Thread(target=stream.read, args=(requests,), name="redraft-relay-read", daemon=True).start()
        try:
            while (response := stream.next()) is not None:
                yield response
        finally:
            with self.lock:
                self._leave_all(stream)
                del self._streams[stream]

    def close(self) -> None:
        """End every stream; workers are told that the server is unavailable."""
        self._stop.set()
        with self.lock:
            for stream in self._streams:
                stream.fail(Unavailable("server: is stopping"))
        self._sweeper.join()

    def counts(self) -> RelayCounts:
        """Return how the relay fares."""
        with self.lock:
            return RelayCounts(
                streams=len(self._streams),
                groups=len(self._groups),
                shared_groups=sum(len(group.members) > 1 for group in self._groups.values()),
                held_bytes=self._nbytes,
                received_tokens=self._received,
                sent_tokens=self._sent,
                dropped_tokens=self._dropped,
                lag_seconds=max(self._lag),
            )

    # Below: called by streams, with the lock held.

    def begin(self, stream: RelayStream, run: str, vocabulary: Vocabulary) -> Vocabulary:
        """Take note of a stream's run; return what its workers and history say of the vocabulary together."""
        for name, other in self._streams.values():
            if name == run:
                RunRecord(0, run, other).check_vocabulary(vocabulary)
                vocabulary = other.merged(vocabulary)
        self._streams[stream] = (run, vocabulary)
        return vocabulary

    def join(self, stream: RelayStream, name: bytes, prompt: Int32Array, field: str) -> None:
        """Let a stream into a group, which is made if need be."""
        if name in stream.groups:
            return
        if len(stream.groups) >= self.config.groups:
            raise ResourceExhausted(f"{field}: more than {self.config.groups} groups in this stream")
        group = self._groups.get((stream.run, name))
        if group is not None and not np.array_equal(group.prompt, prompt):
            raise InvalidArgument(f"{field}.prompt.key: another prompt has this key")
        if group is None:
            group = self._groups[stream.run, name] = Group(name, prompt.copy(), self.config.group_tokens)
        group.join(stream)
        stream.groups[name] = group
        stream.dirty[group] = time.monotonic()
        self._touch(stream.run, group)
        self._tell(group)
        stream.wake()

    def leave(self, stream: RelayStream, name: bytes) -> None:
        """Let a stream out of a group."""
        group = stream.groups.pop(name, None)
        if group is not None:
            group.leave(stream)
            stream.dirty.pop(group, None)
            stream.interest.pop(name, None)
            self._touch(stream.run, group)
            self._tell(group)

    def append(self, stream: RelayStream, group: RelayedGroup, message: relay_pb2.RelayTokens) -> None:
        """Add what a worker wrote, and wake the others."""
        before = group.nbytes
        fresh = group.append(message, stream.worker)
        self._received += fresh
        if missed := group.shorten():
            self._miss(missed)
        self._nbytes += group.nbytes - before
        self._touch(stream.run, group)
        if not fresh:
            return
        for member in group.members:
            if member.worker != stream.worker:
                member.dirty.setdefault(group, group.touched)
                member.wake()

    def limit_memory(self) -> None:
        """Drop text, of the group that was quiet longest first, until the rest fits."""
        while self._nbytes > self.config.memory_bytes:
            quietest = next((group for group in self._groups.values() if group.nbytes), None)
            if quietest is None:
                break
            self._forget(quietest)

    def sent(self, tokens: int, lag: float) -> None:
        """Count what was sent, and how long the first of it had waited, in seconds."""
        self._sent += tokens
        self._lag[0] = max(self._lag[0], lag)

    def _leave_all(self, stream: RelayStream) -> None:
        for name in list(stream.groups):
            self.leave(stream, name)

    def _touch(self, run: str, group: RelayedGroup) -> None:
        group.touched = time.monotonic()
        self._groups.move_to_end((run, group.name))

    def _tell(self, group: RelayedGroup) -> None:
        members = group.members
        for member in members:
            others = len({other.worker for other in members} - {member.worker})
            if member.interest.get(group.name, (0, True))[0] != others:
                member.interest[group.name] = (others, False)
                member.wake()

    def _miss(self, missed: dict[RelayStream, int]) -> None:
        for member, tokens in missed.items():
            member.dropped += tokens
            self._dropped += tokens

    def _forget(self, group: RelayedGroup) -> None:
        before = group.nbytes
        self._miss(group.forget())
        self._nbytes += group.nbytes - before

    def _sweep(self) -> None:
        while not self._stop.wait(_SWEEP):
            with self.lock:
                now = time.monotonic()
                self._lag = [0.0, self._lag[0]]
                for key, group in list(self._groups.items()):
                    quiet = now - group.touched
                    if quiet < min(self.config.linger, self.config.quiet):
                        break
                    if not group.members and quiet >= self.config.linger:
                        self._forget(group)
                        del self._groups[key]
                    elif group.nbytes and quiet >= self.config.quiet:
                        self._forget(group)
                for stream in self._streams:
                    if now - stream.heard > self.config.silence:
                        stream.fail(
                            Unavailable(f"worker: was not heard of for {self.config.silence:g} seconds")
                        )


class RelayStream:
    """One worker's stream: what it serves, and what it has not been told yet."""

    def __init__(self, hub: RelayHub, run_of: RunOf) -> None:
        self._hub = hub
        self._run_of = run_of
        self._woken = threading.Condition(hub.lock)
        self._error: BaseException | None = None
        self._ended = False
        self._last_sent = 0.0
        self._told_dropped = 0
        self._greeted = False
        self._vocabulary = Vocabulary()
        self.run = ""
        self.worker = 0
        self.heard = time.monotonic()
        self.groups: dict[bytes, RelayedGroup] = {}
        self.dirty: dict[RelayedGroup, float] = {}
        """Groups that may have something for this worker -> since when."""
        self.interest: dict[bytes, tuple[int, bool]] = {}
        """Group -> other workers that serve it, and whether this one was told."""
        self.dropped = 0

    def wake(self) -> None:
        """Have `next` look again; the hub's lock is held."""
        self._woken.notify_all()

    def fail(self, error: BaseException | None) -> None:
        """End the stream, with an error or (None) well; the hub's lock is held."""
        self._error = self._error or error
        self._ended = True
        self._woken.notify_all()

    def read(self, requests: Iterator[relay_pb2.RelayRequest]) -> None:
        """Take what the worker sends until it ends; errors end the stream. Runs on a thread of its own."""
        error: BaseException | None = None
        try:
            for message in requests:
                self._receive(message)
                if self._ended:
                    return
        except Exception as failure:
            error = failure
        with self._hub.lock:
            self.fail(error)

    def next(self) -> bytes | None:
        """Return the next message for the worker, serialized, waiting for it; None when the stream has ended well."""
        wait = self._last_sent + _COALESCE - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        with self._hub.lock:
            while True:
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return None
                if (response := self._compose()) is not None:
                    self._last_sent = time.monotonic()
                    return response
                self._woken.wait()

    def _compose(self) -> bytes | None:
        response = relay_pb2.RelayResponse(dropped=self.dropped)
        untold = [name for name, (_, told) in self.interest.items() if not told]
        for name in untold:
            workers = self.interest[name][0]
            self.interest[name] = (workers, True)
            response.interest.add(group=name, workers=workers)
        parts: list[bytes] = []
        nbytes = tokens = 0
        since = time.monotonic()
        for group in list(self.dirty):
            pieces, more = group.take(self, _MESSAGE_BYTES - nbytes)
            for piece in pieces:
                parts.append(piece.data)
                nbytes += piece.nbytes
                tokens += piece.tokens
            if pieces:
                since = min(since, self.dirty[group])
            if more:
                break  # the message is full: the rest keeps its place
            del self.dirty[group]
        news = bool(untold or tokens or self.dropped != self._told_dropped)
        if (self._greeted and not news) or not self.run:
            return None
        self._greeted = True  # the first message, perhaps an empty one, tells the worker that it is connected
        self._told_dropped = self.dropped
        self._hub.sent(tokens, time.monotonic() - since)
        return b"".join((response.SerializeToString(), *parts))

    def _receive(self, message: relay_pb2.RelayRequest) -> None:
        self.heard = time.monotonic()
        if not self.run or message.HasField("run"):
            self._begin(message)
        if message.worker not in (0, self.worker):
            raise InvalidArgument("worker: differs from the stream's first message; open another stream")
        limits, vocabulary = self._hub.limits, self._vocabulary
        for i, joined in enumerate(message.join):
            field = f"join[{i}]"
            key, prompt = check_prompt(joined.prompt, f"{field}.prompt", limits, vocabulary)
            if len(joined.group_id) > _MAX_GROUP_ID:
                raise InvalidArgument(f"{field}.group_id: must have at most {_MAX_GROUP_ID} characters")
            with self._hub.lock:
                self._hub.join(self, group_key(key, joined.group_id), prompt, field)
        if message.tokens:
            check_relayed(message.tokens, self.worker, limits, vocabulary)
            with self._hub.lock:
                for i, tokens in enumerate(message.tokens):
                    group = self.groups.get(tokens.group)
                    if group is None:
                        raise NotFound(f"tokens[{i}].group: was not joined in this stream")
                    self._hub.append(self, group, tokens)
                self._hub.limit_memory()
        if message.leave:
            with self._hub.lock:
                for name in message.leave:
                    self._hub.leave(self, name)

    def _begin(self, message: relay_pb2.RelayRequest) -> None:
        if not message.HasField("run"):
            raise InvalidArgument("run: the first message of the stream must set it")
        run, vocabulary = self._run_of(message.run)
        if self.run and run != self.run:
            raise InvalidArgument(
                f"run.name: the stream began with run {self.run!r}; open another for {run!r}"
            )
        if not (message.worker or self.worker):
            raise InvalidArgument(
                "worker: the first message of the stream must set it to a number above zero"
            )
        with self._hub.lock:
            self._vocabulary = self._hub.begin(self, run, vocabulary)
            self.run, self.worker = run, self.worker or message.worker
            self.wake()
