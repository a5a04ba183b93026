"""What a worker knows of each group that it relays, and the letter box of its stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from redraft._core import LiveIndex
from redraft.v1 import relay_pb2

Int32Array = npt.NDArray[np.int32]

GAP = 2**31 - 1
"""Stands in a live index where tokens are missing: beyond every vocabulary, so that no context runs across it and a
draft that reaches it is cut there."""

_GAP = np.array([GAP], np.int32)
_CHUNK = 128
"""Most tokens added to a live index at once: an engine step that needs the index waits no longer than that takes."""
_ALIVE = 5.0
"""How often a quiet worker says that it is alive, in seconds."""


@dataclass(slots=True, eq=False)
class Sibling:
    """One of this worker's own siblings."""

    number: int
    text: bytearray = field(default_factory=bytearray)
    """Its response so far, little-endian uint32."""
    sent: int = 0
    """How much of it the server was sent, or was dropped, in bytes."""


@dataclass(slots=True, eq=False)
class RelayedGroup:
    """A group that this worker serves.

    Args:
        name: `redraft.rollout.group_key` of the group.
        key: the prompt's key.
        prompt: int32, shape (n,).
        group_id: what keeps groups with equal prompts apart.
        live: the group's index.
        limit: most tokens of others that are added to it.
        address: the server that it belongs to.
    """

    name: bytes
    key: bytes
    prompt: Int32Array
    group_id: str
    live: LiveIndex
    limit: int
    address: str
    joined: bool = False
    wanted: bool = False
    """Whether another worker serves the group too, as far as its server says."""
    dirty: bool = True
    """Whether there may be something to send."""
    over: bool = False
    """Nothing of it runs here any more, and its server knows."""
    siblings: dict[int, Sibling] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    """The caller's numbers of those that still write."""
    _others: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """(worker, sequence) -> [sequence of the live index, tokens known]."""
    _received: int = 0
    _waiting: int = 0  # bytes written and neither sent nor dropped
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def use(self, live: LiveIndex) -> None:
        """Go on with another live index, which knows nothing of the others' siblings so far."""
        with self._lock:
            if live is not self.live:
                self.live, self._others, self._received = live, {}, 0

    def move(self, address: str) -> None:
        """Begin anew with a server, which is told everything."""
        self.address, self.joined, self.wanted, self.dirty = address, False, False, True
        for sibling in self.siblings.values():
            sibling.sent = 0
        self._waiting = sum(len(sibling.text) for sibling in self.siblings.values())

    def write(self, sibling: Sibling, token_ids: bytes) -> None:
        """Add to what a sibling of this worker wrote."""
        sibling.text += token_ids
        self._waiting += len(token_ids)
        self.dirty = True

    def drop_oldest(self, limit: int) -> int:
        """Give up the oldest unsent tokens beyond `limit`, of each sibling its share; return how many."""
        if not self.wanted or self._waiting <= 4 * limit:
            return 0  # as long as nobody wants them, nobody misses them
        unsent = sum(len(sibling.text) - sibling.sent for sibling in self.siblings.values()) // 4
        dropped = 0
        for sibling in self.siblings.values():
            waiting = (len(sibling.text) - sibling.sent) // 4
            share = -(-waiting * max(unsent - limit, 0) // max(unsent, 1))
            sibling.sent += 4 * share
            dropped += share
        self._waiting = 4 * (unsent - dropped)
        return dropped

    def compose(self, message: relay_pb2.RelayRequest, room: int) -> int:
        """Add what was not sent yet to `message`, about `room` bytes of it; return the number of tokens."""
        sequences: list[int] = []
        offsets: list[int] = []
        lengths: list[int] = []
        parts: list[bytearray] = []
        self.dirty = False
        for sibling in self.siblings.values():
            sent, written = sibling.sent, len(sibling.text)
            if sent == written:
                continue
            if room <= 0:
                self.dirty = True
                break
            if written - sent > room:
                written = sent + max(4, room // 4 * 4)
                self.dirty = True
            sequences.append(sibling.number)
            offsets.append(sent // 4)
            lengths.append((written - sent) // 4)
            parts.append(sibling.text[sent:written])
            sibling.sent = written
            room -= written - sent
        if not parts:
            return 0
        token_ids = b"".join(parts)
        self._waiting -= len(token_ids)
        message.tokens.add(
            group=self.name, sequences=sequences, offsets=offsets, lengths=lengths, token_ids=token_ids
        )
        return len(token_ids) // 4

    def receive(self, tokens: relay_pb2.RelayTokens, token_ids: Int32Array) -> tuple[int, int, int]:
        """Add what others wrote to the live index; return tokens added, gaps met, and tokens left out.

        Args:
            tokens: the message.
            token_ids: its tokens, checked; int32, shape (t,).

        Raises:
            ResourceExhausted: the live index is full.
        """
        received = gaps = dropped = at = 0
        with self._lock:
            append, worker = self.live.append, tokens.worker
            # Plain lists are faster than protobuf's.
            for sequence, offset, length in zip(
                tokens.sequences[:], tokens.offsets[:], tokens.lengths[:], strict=True
            ):
                fresh = token_ids[at : at + length]
                at += length
                if self._received + received >= self.limit:
                    dropped += length
                    continue
                place = self._others.get((worker, sequence))
                if place is None:
                    place = self._others[worker, sequence] = [self.live.add_sequence(), 0]
                handle, known = place
                if offset > known:
                    gaps += 1
                    append(handle, _GAP)
                elif offset < known:
                    fresh = fresh[known - offset :]
                    length = len(fresh)
                if length <= _CHUNK:
                    append(handle, fresh)
                else:
                    for begin in range(0, length, _CHUNK):
                        append(handle, fresh[begin : begin + _CHUNK])
                place[1] = max(known, offset) + length
                received += length
            self._received += received
        return received, gaps, dropped


class Mailbox:
    """Holds the next message of a stream until gRPC takes it: while the network is slow, nothing piles up here.

    Args:
        hello: the stream's first message.
    """

    def __init__(self, hello: relay_pb2.RelayRequest) -> None:
        self._changed = threading.Condition()
        self._message: relay_pb2.RelayRequest | None = hello
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether the last message was not taken yet."""
        return self._message is not None

    def put(self, message: relay_pb2.RelayRequest) -> None:
        """Leave a message; the box must not be full."""
        with self._changed:
            self._message = message
            self._changed.notify_all()

    def close(self) -> None:
        """End the stream."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def messages(self) -> Iterator[relay_pb2.RelayRequest]:
        """Yield the messages, and an empty one now and then, until the box is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._message is not None, _ALIVE)
                if self._closed:
                    return
                message, self._message = self._message, None
            yield message or relay_pb2.RelayRequest()
