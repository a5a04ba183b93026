"""How many tokens are drafted: the core's choice against a brute-force one, and what is learned of estimates."""

from __future__ import annotations

import numpy as np
import pytest

from redraft import Drafter, FrozenIndex, InvalidArgument, LiveIndex

Costs = tuple[np.ndarray, np.ndarray]


def ids(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


class Crowd:
    """Requests that all wait after the same kind of context, with histories that promise differently."""

    def __init__(self, requests: int, min_survival: float = 0.0) -> None:
        self.drafter = Drafter(min_survival=min_survival, policy="longest")
        draw = np.random.default_rng(requests)
        self.handles = []
        for _ in range(requests):
            # The same beginning goes on in several ways, some more often than others.
            texts = [
                np.asarray([1, 2, 3, *draw.choice(40, 12, p=np.r_[0.5, np.full(39, 0.5 / 39)])], np.int32)
                for _ in range(int(draw.integers(1, 20)))
            ]
            offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
            history = FrozenIndex.build(np.concatenate(texts), offsets)
            self.handles.append(self.drafter.open(LiveIndex(ids()), ids(1, 2), history=history))
        self.requests = np.asarray(self.handles, np.int32)

    def step(self, token: int | None = None, costs: Costs | None = None, budget: int = -1, horizon: int = 8):
        count = len(self.handles)
        new = ids() if token is None else np.full(count, token, np.int32)
        offsets = np.linspace(0, len(new), count + 1).astype(np.int32)
        horizons = np.full(count, horizon, np.int32)
        return self.drafter.step(self.requests, new, offsets, horizons, costs=costs, budget=budget)


def survivals(batch) -> np.ndarray:
    rows = [
        np.cumprod(batch.probabilities[begin:end])
        for begin, end in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
    ]
    return np.concatenate(rows)


def rate(requests: int, promised: np.ndarray, count: int, costs: Costs) -> float:
    """Return expected tokens a second when the `count` likeliest are drafted."""
    expected = requests + float(np.sort(promised)[::-1][:count].sum())
    points, seconds = costs[0].astype(float), costs[1].astype(float)
    slope = (seconds[-1] - seconds[-2]) / (points[-1] - points[-2])
    return expected / float(np.interp(count, points, seconds) + slope * max(0, count - points[-1]))


@pytest.mark.parametrize("requests", [1, 5, 40])
@pytest.mark.parametrize("jump", [0.0, 3.0])
@pytest.mark.parametrize("each", [0.001, 0.02, 0.2, 0.6])
def test_as_many_tokens_are_drafted_as_bring_most_a_second(requests: int, jump: float, each: float) -> None:
    costs = (
        ids(0, 1, 4, 100),
        (10 + each * np.asarray([0, 1, 4, 100]) + [0, jump, jump, jump]).astype(np.float32),
    )
    crowd = Crowd(requests)
    promised = survivals(crowd.step(3))
    chosen = len(crowd.step(costs=costs).token_ids)
    best = max(rate(requests, promised, count, costs) for count in range(len(promised) + 1))
    assert rate(requests, promised, chosen, costs) == pytest.approx(best, rel=1e-3)
    if each == 0.6:
        assert chosen < len(promised)


def test_nothing_is_drafted_where_nothing_pays() -> None:
    costs = (ids(0, 1, 2), np.asarray([1, 3, 4], np.float32))
    assert not len(Crowd(3).step(3, costs=costs).token_ids)


def test_infinite_costs_force_the_number_of_tokens() -> None:
    forced = (ids(0, 1, 2, 3), np.asarray([np.inf, 1, 1, np.inf], np.float32))
    assert len(Crowd(3).step(3, costs=forced).token_ids) == 2


def test_the_plain_bound_and_the_costs_both_hold() -> None:
    free = (ids(0, 1), np.asarray([1, 1], np.float32))
    everything = len(Crowd(5).step(3).token_ids)
    assert len(Crowd(5).step(3, costs=free).token_ids) == everything
    assert len(Crowd(5).step(3, costs=free, budget=4).token_ids) == 4


@pytest.mark.parametrize(
    "costs",
    [
        (ids(), np.ones(0, np.float32)),
        (ids(1, 2), np.ones(2, np.float32)),
        (ids(0, 2, 2), np.ones(3, np.float32)),
        (ids(0, 1), np.ones(3, np.float32)),
        (ids(0, 1), np.asarray([1, 0], np.float32)),
        (ids(0, 1), np.asarray([1, np.nan], np.float32)),
        (ids(0, 1), np.ones(2, np.float64)),
        (np.asarray([0, 1]), np.ones(2, np.float32)),
        [ids(0, 1), np.ones(2, np.float32)],
    ],
)
def test_malformed_costs_are_refused_and_change_nothing(costs: Costs) -> None:
    crowd = Crowd(2)
    with pytest.raises(InvalidArgument, match=r"^costs: "):
        crowd.step(3, costs=costs)
    assert crowd.drafter.length(crowd.handles[0]) == 2
    assert len(crowd.step(3).token_ids)


def promise(drafter: Drafter) -> float:
    """Return what a single occurrence of a context of four tokens promises."""
    history = FrozenIndex.build(ids(1, 2, 3, 4), np.asarray([0, 4]))
    request = drafter.open(LiveIndex(ids()), history=history)
    batch = drafter.step(ids(request), ids(1, 2, 3), ids(0, 3), ids(1))
    drafter.close(request)
    return float(batch.probabilities[0])


def fail(drafter: Drafter, budget: int) -> None:
    """Have what `promise` promised come out wrong."""
    history = FrozenIndex.build(ids(1, 2, 3, 4), np.asarray([0, 4]))
    request = drafter.open(LiveIndex(ids()), history=history)
    drafter.step(ids(request), ids(1, 2, 3), ids(0, 3), ids(1), budget=budget)
    drafter.step(ids(request), ids(9), ids(0, 1), ids(0))
    drafter.close(request)


@pytest.mark.parametrize("budget", [-1, 0])
def test_broken_promises_lower_the_next_ones_whether_they_were_drafted_or_not(budget: int) -> None:
    drafter = Drafter(min_survival=0.0)
    before = promise(drafter)
    for _ in range(50):
        fail(drafter, budget)
    after = promise(drafter)
    assert after < 0.5 * before
    other = Drafter(min_survival=0.0)
    other.restore(drafter.calibration())
    assert promise(other) == after


def test_what_was_learned_must_be_sound_to_be_restored() -> None:
    drafter = Drafter()
    state = drafter.calibration()
    for bad in (state[:-1], np.full_like(state, -1), np.full_like(state, np.nan)):
        with pytest.raises(InvalidArgument, match=r"^calibration: "):
            drafter.restore(bad)
    drafter.restore(state)
