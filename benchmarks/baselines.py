"""What redraft is compared with, as proposers of the replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from redraft import Drafter, FrozenIndex, LiveIndex
from redraft.benchmarks.drafters import (
    EMPTY,
    FixedLength,
    Oracle,
    Redraft,
    build_history,
    open_without_live,
    routes,
)
from redraft.benchmarks.figures import Rows
from redraft.benchmarks.replay import Proposer
from redraft.benchmarks.traces import Int32Array, Response

COUNT_DEPTH = 64
"""Of the suffix rule's trees: it asks for counts of short contexts, which redraft's own drafts seldom do. Few
texts have more classes of contexts than that; one that repeats itself has many, and counting them all would take
forever."""


class Plain:
    """No drafts: one token a step."""

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        """Do nothing."""

    def open(self, response: Response, turn: int = 0) -> int:
        """Return any handle."""
        return 0

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Draft nothing."""
        return Rows(EMPTY, np.zeros(len(requests) + 1, np.int32))

    def close(self, request: int) -> None:
        """Do nothing."""


class _OneByOne:
    """Drafts request by request, from each one's text."""

    def __init__(self) -> None:
        self._next = 0
        self._prompts: Sequence[Int32Array] = []
        self._routes: list[int] = []

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        if prompts is not self._prompts:
            self._prompts, self._routes = prompts, routes(prompts)
        self.learn(history)

    def learn(self, history: list[list[Response]]) -> None:
        """Index the history."""

    def opened(self, request: int, response: Response, turn: int) -> None:
        """Prepare for a request."""

    def grown(self, request: int, tokens: Int32Array) -> None:
        """Take in tokens that came."""

    def draft(self, request: int, horizon: int) -> Int32Array:
        """Return the draft of a request."""
        raise NotImplementedError

    def open(self, response: Response, turn: int = 0) -> int:
        """Admit a request."""
        self._next += 1
        self.opened(self._next, response, turn)
        return self._next

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Take in what came, then draft for each."""
        handles, bounds = requests.tolist(), offsets.tolist()
        for i, request in enumerate(handles):
            if bounds[i] < bounds[i + 1]:
                self.grown(request, new[bounds[i] : bounds[i + 1]])
        drafts = [
            self.draft(request, horizon) if horizon else EMPTY
            for request, horizon in zip(handles, horizons.tolist(), strict=True)
        ]
        ends = np.zeros(len(drafts) + 1, np.int32)
        np.cumsum([draft.size for draft in drafts], out=ends[1:])
        return Rows(np.concatenate(drafts) if drafts else EMPTY, ends)


class LastEpoch:
    """SpecRL's rule: the last epoch's responses to the prompt, found by the whole prompt (so a conversation's later
    turns find none), as a suffix tree; a draft of 2 that doubles, up to 32, while all of it is accepted, and halves
    else.
    """

    def __init__(self) -> None:
        self._drafter = Drafter(
            min_survival=0.0
        )  # the longest match's heaviest continuation, however unlikely
        self._prompts: Sequence[Int32Array] = []
        self._routes: list[int] = []
        self._trees: dict[int, FrozenIndex] = {}
        self._inner = np.empty(0, np.int32)  # the drafter's handle of each request; -1 without a tree
        self._window = np.empty(0, np.int32)
        self._drafted = np.empty(0, np.int32)
        self._next = 0

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        """Index the last epoch only."""
        if prompts is not self._prompts:
            self._prompts, self._routes = prompts, routes(prompts)
        by_prompt: dict[int, list[Response]] = {}
        for response in history[-1] if history else []:
            by_prompt.setdefault(self._routes[response.prompt], []).append(response)
        self._trees = {
            prompt: build_history(responses, marked=False) for prompt, responses in by_prompt.items()
        }

    def open(self, response: Response, turn: int = 0) -> int:
        """Start with a short window."""
        if self._next == self._inner.size:
            more = max(1024, self._next)
            self._inner, self._window, self._drafted = (
                np.concatenate([kept, np.zeros(more, np.int32)])
                for kept in (self._inner, self._window, self._drafted)
            )
        tree = self._trees.get(self._routes[response.prompt]) if turn == 0 else None
        inner = -1
        if tree is not None:
            inner = open_without_live(self._drafter, response.known(turn), tree)
        self._inner[self._next], self._window[self._next], self._drafted[self._next] = inner, 2, 0
        self._next += 1
        return self._next - 1

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Double or halve the windows, then follow the heaviest continuations of the longest matches."""
        ends = np.zeros(len(requests) + 1, np.int32)
        some = self._inner[requests] >= 0
        if not some.any():
            return Rows(EMPTY, ends)
        came = np.diff(offsets)
        new, came, own = new[np.repeat(some, came)], came[some], requests[some]
        drafted, window = self._drafted[own], self._window[own]
        judged = (came > 0) & (drafted > 0)
        moved = np.where(came > drafted, np.minimum(32, 2 * window), np.maximum(1, window // 2))
        self._window[own] = window = np.where(judged, moved, window)
        bounds = np.zeros(own.size + 1, np.int32)
        np.cumsum(came, out=bounds[1:])
        batch = self._drafter.step(self._inner[own], new, bounds, np.minimum(horizons[some], window))
        self._drafted[own] = np.diff(batch.offsets)
        lengths = np.zeros(len(requests), np.int32)
        lengths[some] = self._drafted[own]
        np.cumsum(lengths, out=ends[1:])
        return Rows(batch.token_ids, ends)

    def close(self, request: int) -> None:
        """Forget the request."""
        if self._inner[request] >= 0:
            self._drafter.close(int(self._inner[request]))


class GlobalSuffixTree(_OneByOne):
    """The rule of vLLM's `suffix` (ArcticInference): a tree of bounded depth over all responses, history and
    live, another over the request's own text; of all match lengths the draft with the highest score.

    Args:
        depth: match and draft together.
        factor: most draft tokens for each matched token.
        min_probability: of a drafted token, with all before it.
    """

    def __init__(self, depth: int = 24, factor: float = 1.0, min_probability: float = 0.1) -> None:
        super().__init__()
        self._draft = partial(
            LiveIndex.depth_limited, depth=depth, factor=factor, min_probability=min_probability
        )
        self._all = LiveIndex(EMPTY, count_depth=COUNT_DEPTH)
        self._own: dict[int, LiveIndex] = {}
        self._sequences: dict[int, int] = {}

    def learn(self, history: list[list[Response]]) -> None:
        """Put all earlier responses into the global tree."""
        self._all = LiveIndex(EMPTY, count_depth=COUNT_DEPTH)
        for epoch in history:
            for response in epoch:
                self._all.end_sequence(self._all.add_sequence(response.token_ids))

    def opened(self, request: int, response: Response, turn: int) -> None:
        """Start both trees' texts; what a prompt holds is in the own one only."""
        known = response.known(turn)
        own = self._own[request] = LiveIndex(self._prompts[response.prompt], count_depth=COUNT_DEPTH)
        own.add_sequence(known)
        self._sequences[request] = self._all.add_sequence(known[-1:])

    def grown(self, request: int, tokens: Int32Array) -> None:
        """Append to both."""
        self._own[request].append(0, tokens)
        self._all.append(self._sequences[request], tokens)

    def draft(self, request: int, horizon: int) -> Int32Array:
        """Return the better of the two trees' drafts; the own text wins a tie."""
        own, own_score = self._draft(self._own[request], 0, horizon=horizon)
        shared, score = self._draft(self._all, self._sequences[request], horizon=horizon)
        return own if own_score >= score else shared

    def close(self, request: int) -> None:
        """Drop the own tree; the global one keeps the text."""
        del self._own[request]
        self._all.end_sequence(self._sequences.pop(request))


BASELINES: dict[str, Callable[[], Proposer]] = {
    "plain": Plain,
    "last-epoch": LastEpoch,
    "suffix": GlobalSuffixTree,
    "oracle": Oracle,
}
"""With rules of their own."""
TUNED: dict[str, Callable[[float], Proposer]] = {
    "own": partial(Redraft, history=False, siblings=False, without=("shared",)),
    "siblings": partial(Redraft, history=False, without=("shared",)),
}
"""Baselines that draft by a threshold."""


def fixed_length(threshold: float) -> Proposer:
    """Return drafts of one length, the longer the lower the threshold, which only serves to search it."""
    return FixedLength(0.3 / threshold)


ABLATIONS: dict[str, Callable[[float], Proposer]] = {
    "without history": partial(Redraft, history=False),
    "without live group": partial(Redraft, live=False),
    "without siblings": partial(Redraft, siblings=False),
    "without shared index": partial(Redraft, without=("shared",)),
    "without blending": partial(Redraft, without=("blending",)),
    "without sparse contexts": partial(Redraft, without=("sparse",)),
    "without rejoining": partial(Redraft, without=("rejoin",)),
    "without mixing": partial(Redraft, without=("mixing",)),
    "without calibration": partial(Redraft, without=("calibration",)),
    "without budget": fixed_length,
    "without prefix routing": partial(Redraft, prefix_routing=False),
    "last epoch only": partial(Redraft, window=1),
    "age decay 0.7": partial(Redraft, age_decay=0.7),
    "age decay 0.4": partial(Redraft, age_decay=0.4),
    "reward weight 1": partial(Redraft, reward_weight=1.0),
    "reward weight 3": partial(Redraft, reward_weight=3.0),
    "longest match": partial(Redraft, policy="longest"),
    "longest match, no correction": partial(Redraft, policy="longest", correction=False),
}
"""redraft with one ingredient off or changed."""
