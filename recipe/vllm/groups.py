"""Groups: this engine's requests to one prompt, with the live index and the history that they share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from redraft._core import FrozenIndex, LiveIndex
from redraft.recipe.vllm.responses import EndedResponses
from redraft.recipe.vllm.sources import HistorySource
from redraft.rollout import prompt_key

Int32Array = npt.NDArray[np.int32]

LIVE_TOKENS = 1_000_000
"""A group whose live index holds more takes no further request: a prompt that is asked without a pause would
grow its index for ever."""

LATE_SIBLING_SECONDS = 5.0
"""With a server: responses that ended this recently are siblings to a request that comes when its group is
gone."""

POLL_SECONDS = 0.01
"""Least time between two looks for history that has arrived."""


_NOTHING = np.zeros(0, np.int32)


@dataclass(slots=True, eq=False)
class Group:
    """The running requests to one prompt."""

    prompt: Int32Array
    live: LiveIndex
    history: FrozenIndex | None = None
    requests: set[int] = field(default_factory=set)
    """The drafter's handles of the group's running requests."""
    shared: bool = True
    """False: known to one request only, for a prompt that has no token ids to be known by."""


class Groups:
    """All groups of the engine. Not thread-safe: the proposer's lock guards it.

    Args:
        source: where history comes from.
        ended: the responses that ended in this engine.
    """

    def __init__(self, source: HistorySource, ended: EndedResponses) -> None:
        self._source = source
        self._ended = ended
        self._by_key: dict[bytes, Group] = {}
        self._seen = source.arrivals
        self._look_at = 0.0

    def __len__(self) -> int:
        """Number of prompts that have running requests."""
        return len(self._by_key)

    @property
    def num_bytes(self) -> int:
        """Bytes of the live indexes."""
        return sum(group.live.nbytes for group in self._by_key.values())

    def find(self, prompt: Int32Array, now: float) -> tuple[Group, Int32Array]:
        """Return the group that a request with this prompt belongs to, made if need be, and what it has said so far.

        The group's own prompt is the whole of `prompt`, or, where `prompt` resumes an aborted rollout or takes a
        conversation up again, the part of it that was the prompt at first. The rest is response: what the policy
        wrote, and for context what others said in between (int32, shape (n,), as `Origin.text`).

        Args:
            prompt: int32, shape (n,), n >= 1: the request's prompt as the engine sees it.
            now: seconds, of a clock that never goes back.
        """
        key = prompt_key(prompt)
        group = self._by_key.get(key)
        if group is not None and not np.array_equal(group.prompt, prompt):
            return self.alone(prompt), _NOTHING
        text = _NOTHING
        if group is None and (origin := self._ended.origin(prompt)) is not None:
            prompt, text = origin
            key = prompt_key(prompt)
            group = self._by_key.get(key)
        self._source.prefetch(prompt)
        if group is not None and group.live.num_tokens <= LIVE_TOKENS:
            return group, text
        if group is not None:
            self._source.group_ended(group.prompt)
        return self._make(prompt, key, now), text

    def alone(self, prompt: Int32Array) -> Group:
        """Return a group of one request, without history and unknown to others."""
        return Group(prompt, LiveIndex(prompt), shared=False)

    def leave(self, group: Group, handle: int) -> None:
        """Take a request out of its group; the last one to leave releases the group."""
        group.requests.discard(handle)
        if group.requests or not group.shared:
            return
        key = prompt_key(group.prompt)
        if self._by_key.get(key) is group:
            del self._by_key[key]
            self._source.group_ended(group.prompt)

    def prompts(self) -> list[Int32Array]:
        """Return the prompts that have running requests."""
        return [group.prompt for group in self._by_key.values()]

    def arrivals(self, now: float) -> list[Group]:
        """Return the groups whose history has come, or come anew, since the last call."""
        seen = self._source.arrivals
        if seen == self._seen or now < self._look_at:
            return []
        self._seen, self._look_at = seen, now + POLL_SECONDS
        came = []
        for group in self._by_key.values():
            history = self._source.get(group.prompt)
            if history is not None and history is not group.history:
                group.history = history
                came.append(group)
        return came

    def _make(self, prompt: Int32Array, key: bytes, now: float) -> Group:
        group = Group(prompt, LiveIndex(prompt), self._source.get(prompt))
        if not self._source.keeps_ended:
            for response in self._ended.of(prompt, since=now - LATE_SIBLING_SECONDS):
                group.live.end_sequence(group.live.add_sequence(response))
        self._by_key[key] = group
        return group
