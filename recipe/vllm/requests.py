"""The engine's requests as the drafter knows them, kept in step with vLLM's batch row by row.

vLLM tells a proposer nothing about a request's life. What can be relied on is the runner's own bookkeeping:
the batch's `req_ids`, and `requests`, which holds one state object for each request from its first step until
it has finished or was aborted, preemption included. So a request is known by the *identity* of that object:
an id that is used again has another object, and a request whose object is gone has ended, however it ended.

Per-step work is numpy over all rows; Python looks at single requests only where the batch changed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from redraft._core import Drafter
from redraft.recipe.vllm import exactness
from redraft.recipe.vllm.groups import Group, Groups
from redraft.recipe.vllm.responses import EndedResponses
from redraft.recipe.vllm.siblings import Siblings

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

TAIL = 4
"""Last known tokens of a request that are compared with vLLM's buffer at each step."""

_BACK = np.arange(TAIL, 0, -1)


class Batch(Protocol):
    """What is read of vLLM's `InputBatch`."""

    req_ids: list[str]
    num_prompt_tokens: Int32Array
    """int32, shape (max_num_reqs,)."""
    num_tokens_no_spec: Int32Array
    """int32, shape (max_num_reqs,): prompt and accepted tokens."""
    token_ids_cpu: Int32Array
    """int32, shape (max_num_reqs, max_model_len), C-contiguous."""


class Step(NamedTuple):
    """One engine step, ready for `Drafter.step`; b rows, the batch's order."""

    handles: Int32Array
    """int32, shape (b,)."""
    token_ids: Int32Array
    """int32, shape (t,): the tokens accepted since the last step."""
    offsets: Int32Array
    """int32, shape (b + 1,)."""
    room: Int64Array
    """int64, shape (b,), >= 0: most tokens that are worth drafting, 0 for a row that sampled nothing."""


@dataclass(slots=True, eq=False)
class _Request:
    state: Any
    """vLLM's `CachedRequestState`; its identity is the request's."""
    slot: int
    """Row of this request in the per-request arrays, for as long as it lives."""
    handle: int
    group: Group
    said: Int32Array
    """int32, shape (n,): what vLLM's prompt holds after the group's: the response so far, others' part of it marked."""
    stop_ids: frozenset[int]


class Requests:
    """Opens, advances and closes the drafter's requests. Not thread-safe: the proposer's lock guards it.

    Args:
        drafter: where requests are opened.
        groups: where a request's group is found.
        ended: where responses go that have ended.
        siblings: is told what requests write.
        max_model_len: vLLM's, prompt and response together.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        drafter: Drafter,
        groups: Groups,
        ended: EndedResponses,
        siblings: Siblings,
        max_model_len: int,
        clock: Callable[[], float],
    ) -> None:
        self._drafter = drafter
        self._groups = groups
        self._ended = ended
        self._siblings = siblings
        self._max_model_len = max_model_len
        self._clock = clock
        self.put_off = 0
        """Tokens of running requests that `put_off_steps` left to the next `advance`."""
        self.steps_put_off = 0
        """Steps of single requests that the drafter doesn't know of as steps of their own."""
        self._by_id: dict[str, _Request] = {}
        self._states: list[Any] = []
        self._slots = np.zeros(0, np.int64)  # by row of the batch: the request's slot
        self._base = np.zeros(0, np.int64)  # by row of the batch: where its text starts in the flat buffer
        self._free: list[int] = []
        self._handles = np.zeros(0, np.int32)
        self._known = np.zeros(0, np.int64)
        self._limits = np.zeros(0, np.int64)
        self._drafts = np.zeros(0, bool)  # False: nothing may be drafted (`exactness`)
        self._unmasked = np.zeros(0, np.int64)  # prompt and `min_tokens`
        self._prompt_lengths = np.zeros(0, np.int64)
        self._tails = np.zeros((0, TAIL), np.int32)
        self._stops = np.zeros(
            1, bool
        )  # by token id: some request stops at it; the last is for all ids beyond

    def __len__(self) -> int:
        """Number of requests that vLLM has not ended, as far as known."""
        return len(self._by_id)

    def advance(self, batch: Batch, requests: Mapping[str, Any], sampled: list[list[int]]) -> Step:
        """Bring every request up to date with vLLM's batch, after sampling.

        Args:
            batch: vLLM's input batch.
            requests: the runner's states by request id.
            sampled: what each row sampled in this step; empty for a row that is still in prefill.
        """
        rows = len(sampled)
        emitted = np.fromiter(map(len, sampled), np.int64, rows)
        states = list(map(requests.get, batch.req_ids))
        if len(states) != len(self._states) or not all(map(operator.is_, states, self._states)):
            self.sweep(requests)
            self._match(batch, states, emitted)
        slots = self._slots
        base = self._base
        total = batch.num_tokens_no_spec[:rows].astype(np.int64)
        text = batch.token_ids_cpu.reshape(-1)  # contiguous: a view
        known = self._known[slots]
        strayed = (total < known) | (batch.num_prompt_tokens[:rows] != self._prompt_lengths[slots])
        strayed |= (_tails(text, base, known) != self._tails[slots]).any(axis=1)
        if strayed.any():
            for row in np.flatnonzero(strayed):
                self._restart(batch, int(row), int(emitted[row]))
            slots, known = self._slots, self._known[self._slots]

        limits = self._limits[slots]
        # Normally what was just sampled; more where vLLM skipped the proposer for a step.
        fresh = np.maximum(np.minimum(total, limits) - known, 0)
        offsets = np.zeros(rows + 1, np.int64)
        np.cumsum(fresh, out=offsets[1:])
        token_ids = text[np.repeat(base + known - offsets[:-1], fresh) + np.arange(offsets[-1])]
        room = np.maximum(limits - total - 1, 0) * ((emitted > 0) & self._drafts[slots])
        unmasked = self._unmasked[slots]
        room = np.where(total < unmasked, np.minimum(room, unmasked - total - 1), room)
        stops = self._stops[np.minimum(token_ids, len(self._stops) - 1)]
        if stops.any():
            token_ids, offsets = self._cut(batch.req_ids, token_ids, offsets, np.flatnonzero(stops), room)
        self.put_off = 0
        self._known[slots] = total
        self._tails[slots] = _tails(text, base, total)
        step = Step(self._handles[slots], token_ids, offsets.astype(np.int32), room)
        self._siblings.advance(step.handles, step.token_ids, step.offsets)
        return step

    def put_off_steps(self, emitted: int) -> None:
        """Take note of steps that `advance` isn't called for; the next call makes up for them.

        Only for steps that verified no draft, in an unchanged batch: what a row gains in each is one token or none.

        Args:
            emitted: tokens of all rows.
        """
        self.put_off += emitted
        self.steps_put_off += emitted

    def sweep(self, requests: Mapping[str, Any]) -> None:
        """Close every request that the runner no longer holds.

        Args:
            requests: the runner's states by request id; may be read while the runner changes it.
        """
        for request_id, request in list(self._by_id.items()):
            if requests.get(request_id) is not request.state:
                self._close(request_id)
                self._states = []  # let go of vLLM's objects, and look at every row in the next step

    def close(self) -> None:
        """Close every request."""
        self.sweep({})

    def _match(self, batch: Batch, states: list[Any], emitted: Int64Array) -> None:
        """Find or open each row's request, after the batch changed."""
        self._slots = np.zeros(len(states), np.int64)
        for row, request_id in enumerate(batch.req_ids):
            request = self._by_id.get(request_id)
            if request is None:
                request = self._open(batch, row, states[row], int(emitted[row]))
            self._slots[row] = request.slot
        self._base = np.arange(len(states)) * batch.token_ids_cpu.shape[1]
        self._states = states

    def _open(self, batch: Batch, row: int, state: Any, emitted: int) -> _Request:
        request_id = batch.req_ids[row]
        prompt_length = int(batch.num_prompt_tokens[row])
        known = int(batch.num_tokens_no_spec[row]) - emitted
        prompt = batch.token_ids_cpu[row, :prompt_length].copy()
        if getattr(state, "prompt_token_ids", prompt) is None:  # given as embeddings
            group, said = self._groups.alone(prompt), prompt[:0]
        else:
            group, said = self._groups.find(prompt, self._clock())
        response = np.concatenate([said, batch.token_ids_cpu[row, prompt_length:known]])
        handle = self._drafter.open(group.live, response, history=group.history)
        group.requests.add(handle)
        if group.shared:
            self._siblings.begin(handle, group.prompt, group.live, response)
        if not self._free:
            self._grow()
        slot = self._free.pop()
        parameters = getattr(state, "sampling_params", None)
        stop_ids = _stop_ids(parameters)
        max_tokens = getattr(parameters, "max_tokens", None)
        longest = self._max_model_len if max_tokens is None else prompt_length + max_tokens
        self._handles[slot] = handle
        self._known[slot] = known
        self._limits[slot] = min(longest, self._max_model_len)
        self._prompt_lengths[slot] = prompt_length
        self._drafts[slot], min_tokens = exactness.bound(parameters)
        self._unmasked[slot] = prompt_length + min_tokens
        if stop_ids and max(stop_ids) >= len(self._stops) - 1:
            self._stops = np.append(self._stops[:-1], np.zeros(max(stop_ids) + 3 - len(self._stops), bool))
        self._stops[list(stop_ids)] = True
        stride = batch.token_ids_cpu.shape[1]
        self._tails[slot] = _tails(
            batch.token_ids_cpu.reshape(-1), np.array([row * stride]), np.array([known])
        )[0]
        request = _Request(state, slot, handle, group, said, stop_ids)
        self._by_id[request_id] = request
        return request

    def _close(self, request_id: str) -> None:
        request = self._by_id.pop(request_id)
        response = _response(request)
        if self.put_off:
            self._catch_up(request, response)
        self._drafter.close(request.handle)
        self._siblings.end(request.handle)
        self._free.append(request.slot)
        if request.group.shared:
            self._ended.add(request.group.prompt, response, self._clock())
        self._groups.leave(request.group, request.handle)

    def _catch_up(self, request: _Request, response: Int32Array) -> None:
        """Bring the group what a request that ended wrote in steps that were put off."""
        late = response[self._drafter.length(request.handle) :]
        if len(late):
            handles, offsets = np.array([request.handle], np.int32), np.array([0, len(late)], np.int32)
            self._drafter.step(handles, late, offsets, np.zeros(1, np.int32))
            self._siblings.advance(handles, late, offsets)
            self.put_off = max(0, self.put_off - len(late))
            self.steps_put_off -= 1  # the drafter counted one

    def _restart(self, batch: Batch, row: int, emitted: int) -> None:
        """Open a request anew whose text is not what it was: tokens taken back, or a session's next turn."""
        request_id = batch.req_ids[row]
        request = self._by_id[request_id]
        opened = self._open(batch, row, request.state, emitted)  # first, so that the group lives on
        self._drafter.close(request.handle)
        self._siblings.end(request.handle)
        self._groups.leave(request.group, request.handle)
        self._free.append(request.slot)
        self._slots[row] = opened.slot

    def _cut(
        self,
        req_ids: list[str],
        token_ids: Int32Array,
        offsets: Int64Array,
        stops: Int64Array,
        room: Int64Array,
    ) -> tuple[Int32Array, Int64Array]:
        """Drop what was sampled after a stop token: vLLM drops it too, and it is no response of anyone.

        Args:
            stops: int64: where in `token_ids` some request's stop tokens are, ascending.
            room: set to 0 for the rows that stopped.
        """
        kept = np.ones(len(token_ids), bool)
        for at, row in zip(stops, np.searchsorted(offsets, stops, side="right") - 1, strict=True):
            if kept[at] and token_ids[at] in self._by_id[req_ids[row]].stop_ids:
                kept[at + 1 : offsets[row + 1]] = False
                room[row] = 0
        return token_ids[kept], np.concatenate([[0], np.cumsum(kept)])[offsets]

    def _grow(self) -> None:
        old = len(self._handles)
        more = max(64, old)
        for name in ("_handles", "_known", "_limits", "_drafts", "_unmasked", "_prompt_lengths", "_tails"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)]))
        self._free.extend(range(old + more - 1, old - 1, -1))


def _tails(text: Int32Array, base: Int64Array, ends: Int64Array) -> Int32Array:
    """Return the last `TAIL` tokens before `ends` of rows that start at `base`; shape (b, TAIL)."""
    return text[base[:, None] + np.maximum(ends[:, None] - _BACK, 0)]


def _stop_ids(parameters: Any) -> frozenset[int]:
    """Return the tokens that end a response, the way vLLM's scheduler decides it."""
    stop_ids = set(getattr(parameters, "stop_token_ids", None) or ())
    end = getattr(parameters, "eos_token_id", None)  # None with ignore_eos
    if end is not None:
        stop_ids.add(end)
    return frozenset(stop_ids)


def _until_stop(token_ids: Int32Array, stop_ids: frozenset[int]) -> Int32Array | None:
    """Return `token_ids` up to the first stop token, it included; None when there is none."""
    if not stop_ids:
        return None
    hits = np.flatnonzero(np.isin(token_ids, list(stop_ids)))
    return token_ids[: hits[0] + 1] if len(hits) else None


def _response(request: _Request) -> Int32Array:
    """Return what the request answered to its group's prompt, from vLLM's own record of it."""
    output = np.asarray(getattr(request.state, "output_token_ids", ()), np.int32)
    max_tokens = getattr(getattr(request.state, "sampling_params", None), "max_tokens", None)
    output = output[:max_tokens]
    stopped = _until_stop(output, request.stop_ids)
    output = output if stopped is None else stopped
    return np.concatenate([request.said, output])
