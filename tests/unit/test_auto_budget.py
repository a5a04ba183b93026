"""The budget's costs: what is learned from steps, and that drafting stops where it does not pay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from redraft.auto_budget import EXPLORATION, STALE, TRIALS, AutoBudget
from redraft.benchmarks.simulate import load, shipped_tables
from redraft.cost_table import read_cost_table
from redraft.errors import InvalidArgument
from redraft.step_costs import StepCosts


def seconds(requests: int, draft_tokens: int) -> float:
    """A made-up engine: drafting costs a jump, and both requests and draft tokens cost."""
    return 0.01 + 1e-4 * requests + 2e-4 * draft_tokens + 0.002 * (draft_tokens > 0)


class Engine:
    """Runs steps in which every draft token has the survival `survival`, like the core would."""

    def __init__(self, budget: AutoBudget, survival: float, spread: float = 0.05) -> None:
        self.budget, self.survival, self.spread = budget, survival, spread
        self.draw = np.random.default_rng(0)
        self.spent = self.emitted = 0.0

    def step(self, requests: int, proposed: int = 4) -> int:
        """Return how many draft tokens the step had."""
        plan = self.budget.plan(requests)
        tokens = 0
        if plan.draft:
            tokens = requests * proposed
            if plan.costs is not None:
                points, prices = (values.astype(float) for values in plan.costs)
                counts = np.arange(tokens + 1)
                with np.errstate(invalid="ignore"):
                    times = np.where(np.isin(counts, points), 0, np.interp(counts, points, prices))
                times[np.isin(counts, points)] = prices[np.isin(points, counts)]
                tokens = int(np.argmax((requests + self.survival * counts) / times))
        emitted = requests + self.survival * tokens
        took = seconds(requests, tokens)
        self.spent, self.emitted = self.spent + took, self.emitted + emitted
        noise = np.exp(self.spread * self.draw.standard_normal()) * (8 if self.draw.random() < 0.03 else 1)
        self.budget.observe(requests, tokens, round(emitted), took * noise)
        return tokens


def test_costs_come_near_the_engines_in_spite_of_noise_and_outliers():
    costs, draw = StepCosts(1024), np.random.default_rng(0)
    for _ in range(3000):
        requests = int(draw.choice([1, 4, 16, 64]))
        tokens = int(draw.choice([0, 1, 2, 8])) * requests
        noise = np.exp(0.1 * draw.standard_normal()) * (10 if draw.random() < 0.1 else 1)
        costs.observe(requests, tokens, seconds(requests, tokens) * noise)
    for requests in (1, 4, 16, 50, 64):
        curve = costs.curve(requests)
        truth = np.asarray([seconds(requests, int(tokens)) for tokens in curve.draft_tokens])
        seen = curve.draft_tokens <= 8 * requests
        ratio = (curve.seconds / curve.seconds[0]) / (truth / truth[0])
        assert np.abs(ratio[seen] - 1).max() < 0.12
        assert (np.diff(curve.seconds) >= 0).all()


def test_costs_follow_an_engine_that_slows_down():
    costs = StepCosts(64)
    for i in range(2000):
        costs.observe(8, 16 * (i % 2), seconds(8, 16 * (i % 2)) * (1 + i / 1000))
    assert costs.curve(8).seconds[0] == pytest.approx(3 * seconds(8, 0), rel=0.1)


def test_the_same_steps_give_the_same_costs():
    first, second = (AutoBudget(256) for _ in range(2))
    engines = [Engine(budget, 0.4) for budget in (first, second)]
    lengths = [[engine.step(32) for _ in range(500)] for engine in engines]
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("requests", [1, 8, 64, 512])
@pytest.mark.parametrize("survival", [0.0, 0.05, 0.3, 0.7])
def test_drafting_is_never_slower_than_plain_decoding_and_takes_what_there_is(requests: int, survival: float):
    engine = Engine(AutoBudget(512 * 4), survival)
    steps = 2000
    for _ in range(steps):
        engine.step(requests)
    plain = engine.emitted / requests * seconds(requests, 0)
    assert engine.spent <= 1.02 * plain
    best = max(
        (requests + survival * tokens) / seconds(requests, tokens) for tokens in range(4 * requests + 1)
    )
    assert engine.emitted / engine.spent >= 0.96 * best
    assert engine.budget.explored_seconds <= 1.5 * EXPLORATION * engine.budget.seconds + 1


def test_drafting_that_stopped_is_tried_again_and_comes_back_when_it_pays():
    engine = Engine(AutoBudget(64), 0.0)
    drafted = [engine.step(8) for _ in range(3000)]
    assert 0 < sum(tokens > 0 for tokens in drafted[500:]) <= 2500 / (0.75 * STALE)
    engine.survival = 0.9
    assert sum(engine.step(8) > 0 for _ in range(300)) > 200


def test_where_steps_cannot_be_timed_drafting_is_not_bounded():
    budget = AutoBudget(64)
    plans = [budget.plan(4) for _ in range(20 * TRIALS)]
    assert plans[-1].draft
    assert plans[-1].costs is None


def test_a_table_is_believed_up_to_a_factor(tmp_path: Path):
    counts, tokens = [1, 8, 64], [0, 1, 8, 64, 512]
    described = {
        "name": "made",
        "requests": counts,
        "draft_tokens": tokens,
        "seconds": [[seconds(count, token) for token in tokens] for count in counts],
    }
    path = tmp_path / "table.json"
    path.write_text(json.dumps(described))
    table = read_cost_table(path)
    assert table.to_json() == described | {"source": ""}
    assert float(table.seconds_at(8, 1024)) == pytest.approx(seconds(8, 1024))
    assert float(table.seconds_at(36, 36)) == pytest.approx(seconds(36, 36))
    costs = StepCosts(512, table)
    for _ in range(20):
        costs.observe(8, 0, 2 * seconds(8, 0))
    curve = costs.curve(64)
    truth = [2 * seconds(64, int(tokens)) for tokens in curve.draft_tokens]
    assert curve.seconds == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize(
    "table",
    [
        "no JSON",
        "{}",
        '{"tokens": [1, 2], "seconds": [1]}',
        '{"tokens": [2, 1], "seconds": [1, 1]}',
        '{"tokens": [0, 1], "seconds": [1, 1]}',
        '{"requests": [1], "draft_tokens": [1, 2], "seconds": [[1, 1]]}',
        '{"requests": [1], "draft_tokens": [0, 2], "seconds": [[1, -1]]}',
        '{"requests": [], "draft_tokens": [0, 2], "seconds": []}',
    ],
)
def test_a_malformed_table_is_refused(tmp_path: Path, table: str):
    (tmp_path / "table.json").write_text(table)
    with pytest.raises(InvalidArgument, match=r"^cost_table: "):
        read_cost_table(tmp_path / "table.json")
    with pytest.raises(InvalidArgument, match=r"^cost_table: "):
        read_cost_table(tmp_path / "missing.json")


@pytest.mark.parametrize("name", shipped_tables())
def test_shipped_tables_name_their_source_and_do_not_fall(name: str):
    table = load(name)
    assert table.name == name
    assert len(table.source) > 50
    for requests in (1, 3, 64, 512):
        assert (np.diff(table.seconds_at(requests, np.arange(2048))) >= 0).all()
