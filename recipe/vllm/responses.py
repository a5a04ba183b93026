"""Responses that ended in this engine: what embedded history and knowing resumed rollouts and further turns rest on."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from redraft.rollout import CONTEXT_ONLY, prompt_key

Int32Array = npt.NDArray[np.int32]

RESPONSES_PER_PROMPT = 64
"""Newest responses kept for a prompt: four epochs of a group of 16."""

_MOST_PROMPT_TOKENS = 16_000_000
"""Of the prompts kept: conversations that are not known again leave a long one each turn."""

_SURE = 4
"""A first turn of this many tokens is known again without its last one."""


class Origin(NamedTuple):
    """Where a prompt goes on from."""

    prompt: Int32Array
    """int32, shape (n,): the prompt that was asked first."""
    text: Int32Array
    """int32, shape (m,), m >= 1: what has been said since, `redraft.rollout.CONTEXT_ONLY` added to ids that the
    policy did not write."""


@dataclass(slots=True)
class _Ended:
    prompt: Int32Array
    responses: list[Int32Array] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class EndedResponses:
    """Ended responses by prompt, bounded by tokens; the prompt whose responses are oldest goes first.

    Safe to use from several threads.

    Args:
        limit: most response tokens kept, >= 0.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._prompt_tokens = 0
        self._lock = threading.Lock()
        self._by_key: OrderedDict[bytes, _Ended] = OrderedDict()
        self._lengths: Counter[int] = Counter()
        self._tokens = 0

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self._by_key)

    @property
    def num_tokens(self) -> int:
        """Response tokens kept."""
        return self._tokens

    def add(self, prompt: Int32Array, response: Int32Array, at: float) -> None:
        """Keep a response; it replaces an earlier one that it continues (resumed, or of the turn before).

        Args:
            prompt: int32, shape (n,), n >= 1.
            response: int32, shape (m,), `CONTEXT_ONLY` added to ids that the policy did not write; ignored when empty.
            at: time in seconds, of the caller's clock.
        """
        if not len(response):
            return
        with self._lock:
            key = prompt_key(prompt)
            ended = self._by_key.get(key)
            if ended is None:
                ended = self._by_key[key] = _Ended(prompt)
                self._prompt_tokens += len(prompt)
                self._lengths[len(prompt)] += 1
            elif not np.array_equal(ended.prompt, prompt):
                return  # another prompt of the same key: it has no history, which is harmless
            kept = [
                i
                for i, old in enumerate(ended.responses)
                if not (len(old) < len(response) and np.array_equal(old, response[: len(old)]))
            ][-(RESPONSES_PER_PROMPT - 1) :]
            self._tokens -= sum(map(len, ended.responses))
            ended.responses = [*(ended.responses[i] for i in kept), response]
            ended.times = [*(ended.times[i] for i in kept), at]
            self._tokens += sum(map(len, ended.responses))
            self._by_key.move_to_end(key)
            while (self._tokens > self._limit or self._prompt_tokens > _MOST_PROMPT_TOKENS) and self._by_key:
                _, oldest = self._by_key.popitem(last=False)
                self._tokens -= sum(map(len, oldest.responses))
                self._prompt_tokens -= len(oldest.prompt)
                self._lengths[len(oldest.prompt)] -= 1
                self._lengths += Counter()  # drops lengths that nobody has any more

    def of(self, prompt: Int32Array, since: float = 0.0) -> list[Int32Array]:
        """Return the prompt's responses that ended at `since` or later, oldest first."""
        with self._lock:
            ended = self._by_key.get(prompt_key(prompt))
            if ended is None or not np.array_equal(ended.prompt, prompt):
                return []
            return [r for r, at in zip(ended.responses, ended.times, strict=True) if at >= since]

    def origin(self, prompt: Int32Array) -> Origin | None:
        """Return the kept prompt that `prompt` goes on from, the longest there is; None when it goes on from none.

        Two things look like that: a rollout that was aborted and is resumed, whose prompt ends with what it had
        generated, and a further turn of a conversation, whose prompt holds the turns before it. So what follows
        the kept prompt must be the start of one of its responses, or begin with one (its first turn). A chat
        template may drop the end token of a turn, so that may be missing.

        Args:
            prompt: int32, shape (n,), n >= 1.
        """
        with self._lock:
            prefixes = list(_prefix_keys(prompt, self._lengths))
            for length, key in reversed(prefixes):
                ended = self._by_key.get(key)
                if ended is None or not np.array_equal(ended.prompt, prompt[:length]):
                    continue
                text = _continue(ended.responses, prompt[length:])
                if text is not None:
                    return Origin(ended.prompt, text)
        return None


def _continue(responses: Iterable[Int32Array], text: Int32Array) -> Int32Array | None:
    """Return `text` with what the policy did not write marked, if one of `responses` is a beginning of it or it of one.

    Args:
        responses: int32, shape (m,) each, as `EndedResponses` keeps them.
        text: int32, shape (n,), n >= 1, unmarked.
    """
    best: Int32Array | None = None
    known = 0
    for response in responses:
        common = min(len(response), len(text))
        differ = np.flatnonzero(response[:common] & (CONTEXT_ONLY - 1) != text[:common])
        same = int(differ[0]) if len(differ) else common
        marks = np.flatnonzero(response >= CONTEXT_ONLY)
        turn = int(marks[0]) if len(marks) else len(response)
        goes_on = same >= turn or (same == turn - 1 and turn >= _SURE)
        if same > known and (same == len(text) or goes_on):
            best, known = response, same
    if best is None:
        return None
    return np.concatenate([best[:known], text[known:] | np.int32(CONTEXT_ONLY)])


def _prefix_keys(prompt: Int32Array, lengths: Iterable[int]) -> Iterable[tuple[int, bytes]]:
    """Yield (length, prompt key of that prefix) for each proper prefix length, ascending, hashing once."""
    state = xxhash.xxh3_128()
    done = 0
    for length in sorted(lengths):
        if length >= len(prompt):
            break
        state.update(np.ascontiguousarray(prompt[done:length], dtype="<i4").data)
        done = length
        yield length, state.digest()
