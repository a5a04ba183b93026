"""The replay: recorded responses come out of an engine that drafts, step by step.

Replaying a recorded sample is an unbiased sample of acceptance: accepting a one-hot draft d with probability
p(d) has the same law as drawing x from p and accepting when x = d.

The engine's conventions: requests are admitted in the order of prompts, siblings together, as others end. The
prefill emits a response's first token, without a draft; tokens_per_step divides all tokens of the responses by
the decode steps after it, as published figures do. All drafts of a step are made before any of its tokens is
known to a sibling. A conversation's next turn is a request of its own, admitted when the turn before it ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from redraft.benchmarks.figures import Figures, Int64Array, Rows, Tally
from redraft.benchmarks.traces import Int32Array, Response, Trace

PROGRESS_TOKENS = 20_000


class Proposer(Protocol):
    """Something that drafts."""

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        """Begin an epoch; `history` holds the epochs before it, oldest first."""

    def open(self, response: Response, turn: int = 0) -> int:
        """Admit a request; returns its handle. What it may look at is `response.known(turn)`: what the request's
        prompt holds beyond the prompt that was published, and the first token.
        """

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Take the tokens that came since the last step and draft at most `horizons[i]` for each request."""

    def close(self, request: int) -> None:
        """Drop a request that ended."""


@runtime_checkable
class KnowingProposer(Proposer, Protocol):
    """One that is told which tokens will be accepted: an upper bound."""

    def step_knowing(
        self,
        requests: Int32Array,
        new: Int32Array,
        offsets: Int32Array,
        horizons: Int32Array,
        verify: Callable[..., Int64Array],
    ) -> Rows:
        """Do what `step` does; `verify(drafts, rows=...)` tells how much of drafts for some requests is right."""


def replay(
    trace: Trace,
    proposer: Proposer,
    *,
    concurrency: int = 256,
    horizon: int = 32,
    replay_prompts: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Figures]:
    """Replay every epoch, each with those before it as history.

    Args:
        trace: the recorded responses.
        proposer: what drafts.
        concurrency: most requests at a time, > 0.
        horizon: most draft tokens for a request and step, >= 0.
        replay_prompts: replay the first so many prompts only; the history is of all. None: all.
        progress: called with numbers of tokens as they come.
    """
    epochs = trace.epochs()
    figures = []
    for number, epoch in enumerate(epochs):
        chosen = [r for r in epoch if replay_prompts is None or r.prompt < replay_prompts]
        chosen.sort(key=lambda r: r.prompt)
        began, cpu_began = time.perf_counter(), time.process_time()
        proposer.start_epoch(trace.prompts, epochs[:number])
        result = Figures(epoch[0].epoch if epoch else number)
        replay_epoch(chosen, proposer, concurrency, horizon, result, progress)
        result.seconds = time.perf_counter() - began
        result.cpu_seconds = time.process_time() - cpu_began
        figures.append(result)
    return figures


Watch = Callable[[Rows, Int64Array, Callable[[Rows], Int64Array]], None]
"""Called after each step with its drafts, how many tokens of each row were accepted, and a function that tells the
same of other drafts."""


class _Queue:
    """Turns of recorded responses in the order in which they are admitted, and where they lie in one array."""

    def __init__(self, responses: list[Response], horizon: int) -> None:
        parts: list[Int32Array] = []
        begins: list[int] = []
        ends: list[int] = []
        turns: list[int] = []
        owners: list[int] = []
        following: list[int] = []
        self._waiting: deque[int] = deque()
        at = 0
        end_mark = np.full(1, -2, np.int32)  # no draft goes on beyond a response
        for owner, response in enumerate(responses):
            self._waiting.append(len(begins))
            for turn, (begin, end) in enumerate(response.turns):
                following.append(len(begins) + 1 if turn + 1 < len(response.turns) else -1)
                begins.append(at + begin)
                ends.append(at + end)
                turns.append(turn)
                owners.append(owner)
            parts += (response.token_ids, end_mark)
            at += response.token_ids.size + 1
        self.truth = np.concatenate([*parts, np.full(horizon + 1, -2, np.int32)])
        self.begins, self.ends = np.asarray(begins, np.int64), np.asarray(ends, np.int64)
        self.turns = np.asarray(turns, np.int64)
        self.owners, self._following = owners, following

    def admit(self, room: int) -> list[int]:
        """Return the next turns, at most `room`. A turn of one token comes whole out of its prefill."""
        admitted: list[int] = []
        while len(admitted) < room and self._waiting:
            turn = self._waiting.popleft()
            while turn >= 0 and self.ends[turn] - self.begins[turn] < 2:
                turn = self._following[turn]
            if turn >= 0:
                admitted.append(turn)
        return admitted

    def follow(self, turn: int) -> None:
        """Put what follows a turn that ended before all that wait."""
        if self._following[turn] >= 0:
            self._waiting.appendleft(self._following[turn])


def replay_epoch(
    responses: list[Response],
    proposer: Proposer,
    concurrency: int,
    horizon: int,
    result: Figures,
    progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
) -> None:
    """Replay responses, admitted in their order, and count into `result`."""
    queue = _Queue(responses, horizon)
    truth, begins, ends, turns = queue.truth, queue.begins, queue.ends, queue.turns
    result.tokens = int((ends - begins).sum())
    result.requests = len(ends)
    tally = Tally(result, int(turns.max()) + 1 if turns.size else 1)
    counting = np.arange(1 << 12)  # cut for every step instead of made
    empty = np.empty(0, np.int32)
    handles = empty
    number = np.empty(0, np.int64)  # of the turn that each request replays
    at = np.empty(0, np.int64)  # place in `truth` of the next token
    turn = begin = end = number
    horizons = empty
    new, offsets = empty, np.zeros(1, np.int32)
    told = 0
    changed = True
    knowing = proposer if isinstance(proposer, KnowingProposer) else None
    while True:
        if changed:
            admitted = queue.admit(concurrency - number.size)
            if admitted:
                opened = [proposer.open(responses[queue.owners[i]], int(turns[i])) for i in admitted]
                handles = np.concatenate([handles, np.asarray(opened, np.int32)])
                number = np.concatenate([number, np.asarray(admitted)])
                at = np.concatenate([at, begins[admitted] + 1])
                offsets = np.concatenate([offsets, np.full(len(admitted), offsets[-1], np.int32)])
            if not number.size:
                break
            horizons = np.full(number.size, horizon, np.int32)
            begin, end, turn = begins[number], ends[number], turns[number]
            changed = False
        left = end - at
        began = time.perf_counter()
        if knowing is not None:
            told_truth = partial(_verify_some, truth=truth, at=at, left=left)
            rows = knowing.step_knowing(handles, new, offsets, horizons, told_truth)
        else:
            rows = proposer.step(handles, new, offsets, horizons)
        draft_us = (time.perf_counter() - began) * 1e6 / number.size
        if rows.token_ids.size >= counting.size:
            counting = np.arange(2 * rows.token_ids.size)
        accepted = _verify(rows, truth, at, left, counting)
        if watch is not None:
            watch(rows, accepted, partial(_verify, truth=truth, at=at, left=left))
        emitted = np.minimum(accepted + 1, left)
        tally.add(rows, accepted, emitted, at - begin, turn, draft_us)
        offsets = np.zeros(number.size + 1, np.int32)
        emitted.cumsum(out=offsets[1:])
        came = int(offsets[-1])
        if came >= counting.size:
            counting = np.arange(2 * came)
        new = truth[(at - offsets[:-1]).repeat(emitted) + counting[:came]]
        at = at + emitted
        told += came
        if progress is not None and told >= PROGRESS_TOKENS:
            progress(told)
            told = 0
        ended = emitted == left
        if ended.any():
            # Its last tokens are told too: siblings draft from them.
            proposer.step(handles, new, offsets, np.zeros(number.size, np.int32))
            for handle, turn_ended in zip(handles[ended].tolist(), number[ended].tolist(), strict=True):
                proposer.close(handle)
                queue.follow(turn_ended)
            stay = ~ended
            handles, number, at = handles[stay], number[stay], at[stay]
            new, offsets = empty, np.zeros(number.size + 1, np.int32)
            changed = True
    tally.flush()
    if progress is not None:
        progress(told)


def _verify(
    rows: Rows, truth: Int32Array, at: Int64Array, left: Int64Array, counting: Int64Array | None = None
) -> Int64Array:
    """Return how many leading tokens of each row are the recorded ones."""
    offsets = rows.offsets
    count = rows.token_ids.size
    if not count:
        return np.zeros(len(offsets) - 1, np.int64)
    if len(offsets) == 2:
        place = int(at[0])
        misses = (truth[place : place + count] != rows.token_ids).nonzero()[0]
        return np.asarray([min(int(misses[0]) if misses.size else count, int(left[0]))])
    begins = offsets[:-1]
    lengths = offsets[1:] - begins
    numbers = np.arange(count) if counting is None else counting[:count]
    wrong = np.empty(count + 1, np.int64)
    wrong[0] = 0
    (truth[(at - begins).repeat(lengths) + numbers] != rows.token_ids).cumsum(out=wrong[1:])
    right = np.zeros(count + 1, np.int64)
    (wrong[1:] == wrong[begins].repeat(lengths)).cumsum(out=right[1:])
    return np.asarray(np.minimum(right[offsets[1:]] - right[begins], left))


def _verify_some(
    drafts: Rows, rows: Int64Array, truth: Int32Array, at: Int64Array, left: Int64Array
) -> Int64Array:
    """Verify drafts of only the requests `rows`."""
    return _verify(drafts, truth, at[rows], left[rows])
