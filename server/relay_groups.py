"""The groups of the live relay: who serves them, and a log of what their siblings wrote."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from redraft.errors import InvalidArgument
from redraft.rollout import CONTEXT_ONLY
from redraft.server.config import LimitsConfig
from redraft.server.encoded import encode_field
from redraft.server.history import Int32Array
from redraft.v1 import relay_pb2
from redraft.vocabulary import Vocabulary
from redraft.wire import check_range, tokens_from_bytes

_TOKENS = relay_pb2.RelayResponse.DESCRIPTOR.fields_by_name["tokens"].number
_PIECE_BYTES = 120
"""What a piece of the log takes beside its own bytes."""
_MAX_SIBLINGS = 65_536
"""Siblings of a group whose place is remembered; of those beyond it repeated text is not noticed."""


class Member(Protocol):
    """Somebody who serves a group: one stream."""

    worker: int
    """The worker's number; its own text is not sent to it."""


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a group's log: what one worker sent of it in one message."""

    worker: int
    data: bytes
    """A `RelayResponse` with these tokens and nothing else, serialized: responses that are joined are one response."""
    tokens: int

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        return len(self.data) + _PIECE_BYTES


@dataclass(slots=True, eq=False)
class Group(Generic[M]):
    """A group's log; every member has a place in it. Not thread-safe: the hub's lock guards it.

    Args:
        name: `redraft.rollout.group_key` of the group.
        prompt: int32, shape (n,).
        limit: most tokens held.
    """

    name: bytes
    prompt: Int32Array
    limit: int
    touched: float = 0.0
    """When somebody last joined, left or wrote."""
    tokens: int = 0
    nbytes: int = 0
    _log: list[Piece] = field(default_factory=list)
    _first: int = 0  # number of the log's first piece
    _ends: dict[int, dict[int, int]] = field(default_factory=dict)  # worker -> sequence -> tokens known
    _places: dict[M, int] = field(default_factory=dict)  # member -> number of the next piece to send

    @property
    def members(self) -> list[M]:
        """Those who serve the group."""
        return list(self._places)

    def join(self, member: M) -> None:
        """Let a member in, who begins at the start of the log."""
        self._places[member] = self._first

    def leave(self, member: M) -> None:
        """Let a member go."""
        del self._places[member]

    def append(self, message: relay_pb2.RelayTokens, worker: int) -> int:
        """Add checked tokens, without what is known already; return how many are new."""
        # Without a loop in Python, and on plain lists, which are faster than protobuf's: this runs for every group of
        # every message.
        ends = self._ends.setdefault(worker, {})
        sequences, offsets = message.sequences[:], message.offsets[:]
        if any(map(operator.lt, offsets, map(ends.get, sequences, itertools.repeat(0)))):
            message = self._without_repetition(message, ends)
            sequences, offsets = message.sequences[:], message.offsets[:]
        if not sequences:
            return 0
        ends.update(zip(sequences, map(operator.add, offsets, message.lengths[:]), strict=True))
        while len(ends) > _MAX_SIBLINGS:
            del ends[next(iter(ends))]
        message.worker = worker
        piece = Piece(worker, encode_field(_TOKENS, message.SerializeToString()), len(message.token_ids) // 4)
        self._log.append(piece)
        self.tokens += piece.tokens
        self.nbytes += piece.nbytes
        return piece.tokens

    def shorten(self) -> dict[M, int]:
        """Drop the oldest text beyond the limit; return member -> tokens that it will not get."""
        if self.tokens <= self.limit:
            return {}
        count, left = 0, self.tokens
        while left > self.limit - self.limit // 8:  # a little more, so that it is not done at every message
            left -= self._log[count].tokens
            count += 1
        return self._drop(count)

    def forget(self) -> dict[M, int]:
        """Drop all text; return member -> tokens that it will not get."""
        self._ends.clear()
        return self._drop(len(self._log))

    def take(self, member: M, limit: int) -> tuple[list[Piece], bool]:
        """Return the next pieces for a member, but its own, and whether there are more.

        Args:
            member: who asks.
            limit: bytes after which no further piece is taken.
        """
        place = self._places.get(member)
        if place is None:
            return [], False
        taken: list[Piece] = []
        nbytes = 0
        end = self._first + len(self._log)
        while place < end and nbytes < limit:
            piece = self._log[place - self._first]
            place += 1
            if piece.worker != member.worker:
                taken.append(piece)
                nbytes += piece.nbytes
        self._places[member] = place
        return taken, place < end

    def _drop(self, count: int) -> dict[M, int]:
        dropped = self._log[:count]
        del self._log[:count]
        self.tokens -= sum(piece.tokens for piece in dropped)
        self.nbytes -= sum(piece.nbytes for piece in dropped)
        missed: dict[M, int] = {}
        for member, place in self._places.items():
            lost = sum(p.tokens for p in dropped[place - self._first :] if p.worker != member.worker)
            if place < self._first + count:
                self._places[member] = self._first + count
                missed[member] = lost
        self._first += count
        return missed

    def _without_repetition(
        self, message: relay_pb2.RelayTokens, known: dict[int, int]
    ) -> relay_pb2.RelayTokens:
        fresh = relay_pb2.RelayTokens(group=message.group)
        parts: list[bytes] = []
        ends = {sequence: known.get(sequence, 0) for sequence in message.sequences}
        at = 0
        for sequence, offset, length in zip(message.sequences, message.offsets, message.lengths, strict=True):
            skip = min(max(ends[sequence] - offset, 0), length)
            if skip < length:
                fresh.sequences.append(sequence)
                fresh.offsets.append(offset + skip)
                fresh.lengths.append(length - skip)
                parts.append(message.token_ids[4 * (at + skip) : 4 * (at + length)])
                ends[sequence] = offset + length
            at += length
        fresh.token_ids = b"".join(parts)
        return fresh


def check_relayed(
    messages: Sequence[relay_pb2.RelayTokens], worker: int, limits: LimitsConfig, vocabulary: Vocabulary
) -> None:
    """Check what a worker sent.

    Raises:
        InvalidArgument: something is malformed; the message starts with the field's name.
    """
    for i, message in enumerate(messages):
        field = f"tokens[{i}]"
        if not message.group:
            raise InvalidArgument(f"{field}.group: must not be empty")
        if message.worker not in (0, worker):
            raise InvalidArgument(f"{field}.worker: is another worker than the stream's")
        count, offsets, lengths = len(message.sequences), message.offsets[:], message.lengths[:]
        for name, items in (("offsets", offsets), ("lengths", lengths)):
            if len(items) != count:
                raise InvalidArgument(f"{field}.{name}: {len(items)} items for {count} sequences")
        if 0 in lengths:
            raise InvalidArgument(f"{field}.lengths: must not be zero")
        if 4 * sum(lengths) != len(message.token_ids):
            raise InvalidArgument(
                f"{field}.token_ids: {len(message.token_ids)} bytes for lengths that sum up to {sum(lengths)} tokens"
            )
        end = max(map(operator.add, offsets, lengths), default=0)
        if end > limits.response_tokens:
            raise InvalidArgument(
                f"{field}.offsets: {end} tokens of a response are more than the limit of {limits.response_tokens}"
            )
    try:  # all at once: most messages are good, and hold few tokens of many groups
        _check_tokens(b"".join(m.token_ids for m in messages), "", vocabulary)
    except InvalidArgument:
        for i, message in enumerate(messages):
            _check_tokens(message.token_ids, f"tokens[{i}].token_ids", vocabulary)


def _check_tokens(data: bytes, field: str, vocabulary: Vocabulary) -> None:
    """Refuse ids beyond the vocabulary; `CONTEXT_ONLY` may be added to them."""
    ids = tokens_from_bytes(data, field)
    if vocabulary.size:
        check_range(np.where(ids >= CONTEXT_ONLY, ids - CONTEXT_ONLY, ids), field, vocabulary.size)
