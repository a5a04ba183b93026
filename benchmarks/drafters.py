"""redraft's drafter as a proposer of the replay, with switches to leave parts of it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from redraft import Drafter, FrozenIndex, LiveIndex
from redraft.benchmarks.figures import Int64Array, Rows
from redraft.benchmarks.traces import Int32Array, Response
from redraft.rollout import CONTEXT_ONLY

EMPTY = np.empty(0, np.int32)
NO_ROOM = 4096
"""Bytes that hold an empty live index and not a token more: requests drop it at their first token."""


def build_history(
    responses: Sequence[Response], weights: Sequence[float] | None = None, *, marked: bool = True
) -> FrozenIndex:
    """Index responses of one prompt; at least one.

    Args:
        responses: at least one.
        weights: what each counts; None: 1.
        marked: as redraft's server holds conversations; else as they were spoken.
    """
    offsets = np.zeros(len(responses) + 1, np.int64)
    np.cumsum([response.token_ids.size for response in responses], out=offsets[1:])
    ids = np.concatenate([r.published if marked else r.token_ids for r in responses])
    return FrozenIndex.build(ids, offsets, None if weights is None else np.asarray(weights, np.float32))


def routes(prompts: Sequence[Int32Array]) -> list[int]:
    """Return for each prompt the first one with the same token ids, as a router sees tokens and no names."""
    firsts: dict[bytes, int] = {}
    return [firsts.setdefault(prompt.tobytes(), i) for i, prompt in enumerate(prompts)]


def open_without_live(drafter: Drafter, known: Int32Array, history: FrozenIndex | None) -> int:
    """Open a request that drafts from its history alone."""
    request = drafter.open(LiveIndex(EMPTY, memory_limit=NO_ROOM), None, history=history)
    one, bounds = np.asarray([request], np.int32), np.asarray([0, known.size], np.int32)
    drafter.step(one, known, bounds, np.zeros(1, np.int32))
    return request


def cut_at_context(rows: Rows) -> Rows:
    """Return rows that end before what the policy did not write, as redraft's proposer sends them.

    A conversation's history goes on with what users and tools said; no draft of that can be accepted.
    """
    stops = np.flatnonzero(rows.token_ids >= CONTEXT_ONLY)
    if not stops.size:
        return rows
    first = np.searchsorted(stops, rows.offsets[:-1])  # the first stop at or after each row's begin
    stop = np.where(first < stops.size, stops[np.minimum(first, stops.size - 1)], rows.token_ids.size)
    lengths = np.minimum(stop, rows.offsets[1:]) - rows.offsets[:-1]
    bounds = np.zeros(rows.offsets.size, np.int32)
    np.cumsum(lengths, out=bounds[1:])
    places = np.repeat(rows.offsets[:-1] - bounds[:-1], lengths) + np.arange(bounds[-1])
    kept = None if rows.probabilities is None else rows.probabilities[places]
    return Rows(rows.token_ids[places], bounds, kept, rows.sources)


class Redraft:
    """redraft's drafter: history of all earlier epochs, live siblings, the shared index.

    A conversation's turn finds the history and the group of the prompt that was published, which is a prefix of its
    own (prefix routing); what its prompt holds beyond that is context.

    Args:
        min_survival: a token is drafted when it and all before it are accepted with at least this probability.
        history: whether earlier epochs are used.
        siblings: whether those of a prompt share one live index.
        live: whether there is a live index at all; without, neither siblings nor own output are drafted from.
        prefix_routing: without, a turn that is not the first finds neither history nor siblings.
        correction: without, the policy "longest" believes what it estimates.
        policy, without: as `Drafter` takes them.
        age_decay: weight of an epoch over that of the next, in (0, 1].
        reward_weight: a response counts 1 + reward_weight when its reward is above its prompt's mean.
        window: epochs that history holds, the newest ones; 0 for all.
    """

    def __init__(
        self,
        min_survival: float = 0.2,
        *,
        history: bool = True,
        siblings: bool = True,
        live: bool = True,
        prefix_routing: bool = True,
        correction: bool = True,
        policy: str = "blend",
        without: Sequence[str] = (),
        age_decay: float = 1.0,
        reward_weight: float = 0.0,
        window: int = 0,
    ) -> None:
        self._drafter = Drafter(min_survival=min_survival, policy=policy, without=tuple(without))
        self._uses_history = history
        self._siblings = siblings
        self._uses_live = live
        self._prefix_routing = prefix_routing
        self._untaught = None if correction else self._drafter.calibration()
        self._age_decay = age_decay
        self._reward_weight = reward_weight
        self._window = window
        self._prompts: Sequence[Int32Array] = []
        self._routes: list[int] = []
        self._past: dict[int, list[tuple[Response, int]]] = {}
        self._history: dict[int, FrozenIndex] = {}
        self._live: dict[int, LiveIndex] = {}
        self._talks = False

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        """Forget the last epoch's groups; indexes are built as prompts come."""
        if prompts is not self._prompts:
            self._prompts, self._routes = prompts, routes(prompts)
        self._live, self._history, self._past = {}, {}, {}
        if not self._uses_history:
            return
        for age, epoch in enumerate(reversed(history[-self._window :])):
            for response in epoch:
                self._past.setdefault(self._routes[response.prompt], []).append((response, age))

    def _weights(self, past: list[tuple[Response, int]]) -> list[float] | None:
        if self._age_decay == 1 and self._reward_weight == 0:
            return None
        mean = float(np.mean([response.reward for response, _ in past]))
        return [
            self._age_decay**age * (1 + self._reward_weight * (response.reward > mean))
            for response, age in past
        ]

    def _history_of(self, prompt: int) -> FrozenIndex | None:
        if prompt in self._past and prompt not in self._history:
            past = self._past[prompt]
            self._history[prompt] = build_history([r for r, _ in past], self._weights(past))
        return self._history.get(prompt)

    def open(self, response: Response, turn: int = 0) -> int:
        """Open a request on its group's live index and its prompt's history."""
        prompt = self._routes[response.prompt]
        self._talks |= bool(response.spans)
        known = response.published[: response.known(turn).size]
        routed = turn == 0 or self._prefix_routing
        history = self._history_of(prompt) if routed else None
        if not self._uses_live:
            return open_without_live(self._drafter, known, history)
        live = self._live.get(prompt) if routed and self._siblings else None
        if live is None:
            live = LiveIndex(self._prompts[prompt])
            if routed:
                self._live[prompt] = live
        return self._drafter.open(live, known, history=history)

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Make the one call of the engine step."""
        batch = self._drafter.step(requests, new, offsets, horizons)
        if self._untaught is not None:
            self._drafter.restore(self._untaught)
        rows = Rows(batch.token_ids, batch.offsets, batch.probabilities, batch.sources)
        return cut_at_context(rows) if self._talks else rows

    def close(self, request: int) -> None:
        """Close the request; its text goes on serving the group."""
        self._drafter.close(request)


class FixedLength(Redraft):
    """As many draft tokens for every request, likely or not: what is left without the batch's budget.

    Args:
        length: draft tokens for a request and step; a broken number is met on average over requests.
    """

    def __init__(self, length: float) -> None:
        super().__init__(0.0)
        self._length = length

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Draft the same number of tokens for all."""
        place = np.arange(len(requests)) * 0.6180339887498949 % 1  # spread evenly, by no chance
        lengths = np.floor(self._length + place).astype(np.int32)
        return super().step(requests, new, offsets, np.minimum(horizons, lengths))


class Oracle(Redraft):
    """redraft's proposals without a threshold, cut by someone who knows which will be accepted."""

    PORTIONS = (4, 12)
    """Draft tokens asked for first; more only where all of these are right, as others are cut anyway."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def step_knowing(
        self,
        requests: Int32Array,
        new: Int32Array,
        offsets: Int32Array,
        horizons: Int32Array,
        verify: Callable[..., Int64Array],
    ) -> Rows:
        """Draft and keep what `verify` says is right."""
        chosen = np.arange(len(requests))
        parts: list[Rows] = []
        taken = np.zeros((2, len(requests)), np.int64)  # part and row in it
        accepted = np.zeros(len(requests), np.int64)
        for number, portion in enumerate((*self.PORTIONS, None)):
            limits = horizons[chosen] if portion is None else np.minimum(horizons[chosen], portion)
            rows = self.step(requests[chosen], new, offsets, limits)
            right = verify(rows, rows=chosen)
            parts.append(rows)
            taken[:, chosen] = np.stack([np.full(chosen.size, number), np.arange(chosen.size)])
            accepted[chosen] = right
            chosen = chosen[(right == limits) & (limits < horizons[chosen])]
            if not chosen.size:
                break
            new, offsets = EMPTY, np.zeros(chosen.size + 1, np.int32)
        begins = np.zeros(len(requests), np.int64)
        sources = np.zeros(len(requests), np.uint8)
        at = 0
        for number, rows in enumerate(parts):
            mine = taken[0] == number
            begins[mine] = at + rows.offsets[:-1][taken[1, mine]]
            if rows.sources is not None:
                sources[mine] = rows.sources[taken[1, mine]]
            at += rows.token_ids.size
        bounds = np.zeros(len(requests) + 1, np.int32)
        np.cumsum(accepted, out=bounds[1:])
        places = np.repeat(begins - bounds[:-1], accepted) + np.arange(bounds[-1])
        whole = np.concatenate([rows.token_ids for rows in parts])
        sources[accepted == 0] = 0
        return Rows(whole[places], bounds, None, sources)
