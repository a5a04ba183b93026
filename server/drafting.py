"""One Draft stream: a thin client's open requests, drafted for with the same core that the vLLM proposer links."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from redraft._core import SOURCE_HISTORY, SOURCE_LIVE, Drafter, FrozenIndex, LiveIndex
from redraft.errors import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted
from redraft.rollout import CONTEXT_ONLY
from redraft.server.config import LimitsConfig
from redraft.server.history import Int32Array
from redraft.server.ingest import check_prompt, check_tokens
from redraft.v1 import drafting_pb2
from redraft.vocabulary import Vocabulary
from redraft.wire import tokens_to_bytes

_MAX_HORIZON = 1024
_SOURCES = {SOURCE_HISTORY: "history", SOURCE_LIVE: "live"}

HistoryOf = Callable[[bytes, Int32Array], FrozenIndex | None]


@dataclass(slots=True)
class _Group:
    prompt: Int32Array
    live: LiveIndex
    history: FrozenIndex | None
    open: set[int] = field(default_factory=set)


class DraftSession:
    """The state of one Draft stream. Not thread safe: a stream's messages come one after the other.

    Args:
        history_of: returns the frozen index of (prompt key, prompt tokens), or None.
        limits: bounds on what the client may ask.
        vocabulary: the run's.
    """

    def __init__(self, history_of: HistoryOf, limits: LimitsConfig, vocabulary: Vocabulary) -> None:
        self._history_of = history_of
        self._limits = limits
        self._vocabulary = vocabulary
        self._drafter = Drafter()
        self._groups: OrderedDict[bytes, _Group] = OrderedDict()
        self._requests: dict[int, tuple[int, bytes]] = {}

    def answer(self, message: drafting_pb2.DraftRequest) -> drafting_pb2.DraftResponse:
        """Open, advance and close what the message says; return the drafts.

        Raises:
            InvalidArgument: a field is malformed.
            NotFound: an id to advance is not open.
            AlreadyExists: an id to open is open.
            ResourceExhausted: too many requests are open.
        """
        for i, opened in enumerate(message.open):
            self._open(opened, f"open[{i}]")
        response = self._advance(message) if message.advance else drafting_pb2.DraftResponse()
        for request_id in message.close:
            self._close(request_id)
        return response

    def _open(self, message: drafting_pb2.OpenRequest, field: str) -> None:
        if message.id in self._requests:
            raise AlreadyExists(f"{field}.id: {message.id} is open already")
        if len(self._requests) >= self._limits.draft_requests:
            raise ResourceExhausted(
                f"{field}: more than {self._limits.draft_requests} requests are open in this stream"
            )
        key, prompt = check_prompt(message.prompt, f"{field}.prompt", self._limits, self._vocabulary)
        known = check_tokens(
            message.response_token_ids,
            f"{field}.response_token_ids",
            self._limits.response_tokens,
            self._vocabulary,
            may_be_empty=True,
        )
        group = self._groups.get(key)
        if group is None or not np.array_equal(group.prompt, prompt):
            if group is not None and group.open:
                raise InvalidArgument(f"{field}.prompt.key: another open prompt has this key")
            group = self._groups[key] = _Group(prompt, LiveIndex(prompt), self._history_of(key, prompt))
        handle = self._drafter.open(group.live, known, history=group.history)
        group.open.add(message.id)
        self._groups.move_to_end(key)
        self._requests[message.id] = (handle, key)

    def _advance(self, message: drafting_pb2.DraftRequest) -> drafting_pb2.DraftResponse:
        handles: list[int] = []
        rows: list[Int32Array] = []
        seen: set[int] = set()
        for i, advance in enumerate(message.advance):
            field = f"advance[{i}]"
            if advance.id not in self._requests:
                raise NotFound(f"{field}.id: request {advance.id} is not open")
            if advance.id in seen:
                raise InvalidArgument(f"{field}.id: request {advance.id} is in the message twice")
            seen.add(advance.id)
            if advance.horizon > _MAX_HORIZON:
                raise InvalidArgument(
                    f"{field}.horizon: must be at most {_MAX_HORIZON}, got {advance.horizon}"
                )
            handle = self._requests[advance.id][0]
            row = check_tokens(
                advance.token_ids,
                f"{field}.token_ids",
                self._limits.response_tokens - self._drafter.length(handle),
                self._vocabulary,
                may_be_empty=True,
            )
            handles.append(handle)
            rows.append(row)
        batch = self._drafter.step(
            np.array(handles, dtype=np.int32),
            np.concatenate(rows).astype(np.int32, copy=False),
            np.cumsum([0, *(row.size for row in rows)], dtype=np.int32),
            np.array([advance.horizon for advance in message.advance], dtype=np.int32),
            budget=message.budget or -1,
        )
        response = drafting_pb2.DraftResponse()
        for i, advance in enumerate(message.advance):
            start, end = int(batch.offsets[i]), int(batch.offsets[i + 1])
            draft = response.drafts.add(id=advance.id)
            row = batch.token_ids[start:end]
            row = row[: int(np.argmax(row >= CONTEXT_ONLY))] if (row >= CONTEXT_ONLY).any() else row
            if row.size:
                draft.token_ids = tokens_to_bytes(row)
                draft.source = _SOURCES.get(int(batch.sources[i]), "")
                draft.match_length = int(batch.match_lengths[i])
        return response

    def _close(self, request_id: int) -> None:
        handle, key = self._requests.pop(request_id, (-1, b""))
        if handle < 0:
            return
        self._drafter.close(handle)
        self._groups[key].open.discard(request_id)
        self._drop_idle()

    def _drop_idle(self) -> None:
        # A finished group's text serves siblings that start later, within bounds; the oldest idle groups go first.
        idle = [(key, group.live.nbytes) for key, group in self._groups.items() if not group.open]
        count, nbytes = len(idle), sum(size for _, size in idle)
        for key, size in idle:
            if count <= self._limits.draft_requests and nbytes <= self._limits.draft_idle_bytes:
                return
            del self._groups[key]
            count, nbytes = count - 1, nbytes - size
