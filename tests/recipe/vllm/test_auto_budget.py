"""The proposer's budget "auto": which steps are timed, and that drafting follows what they took."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from redraft.recipe.vllm import proposer as proposer_module
from redraft.recipe.vllm.proposer import decoded

PROMPT = [7, 8, 9]
TEXT = [100 + i for i in range(30)]


def output(scheduled: dict[str, int], drafts: dict[str, list[int]], new: list[str] = ()) -> SimpleNamespace:
    """Return what is read of vLLM's SchedulerOutput."""
    return SimpleNamespace(
        num_scheduled_tokens=scheduled,
        scheduled_spec_decode_tokens=drafts,
        scheduled_new_reqs=list(new),
        num_spec_tokens_to_schedule=None,
    )


def test_only_steps_that_do_nothing_but_decode_are_timed():
    assert decoded(output({"a": 1, "b": 4}, {"b": [1, 2, 3]})) == (2, 3)
    assert decoded(output({"a": 1}, {})) == (1, 0)
    assert decoded(output({"a": 1, "b": 9}, {}, new=["b"])) is None
    assert decoded(output({"a": 1, "b": 9}, {})) is None  # more of a prefill
    assert decoded(output({}, {})) is None
    assert decoded(SimpleNamespace()) is None


class Clock:
    """Stands in for the module `time`: a step takes what the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        """Return the time."""
        return self.now

    monotonic = perf_counter


def decode(runner, clock, seconds, steps: int) -> list[int]:
    """Let one request repeat itself; return each step's number of draft tokens."""
    lengths = []
    drafts: dict[str, list[int]] = {"a": []}
    for i in range(steps):
        clock.now += seconds(len(drafts["a"]))
        scheduled = {"a": 1 + len(drafts["a"])}
        runner.output = output(scheduled, {"a": drafts["a"]} if drafts["a"] else {})
        drafts = runner.step(a=[TEXT[i % 5]])
        lengths.append(len(drafts["a"]))
    return lengths


@pytest.fixture
def runner(make_runner, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(proposer_module, "time", clock)
    made = make_runner(budget="auto")
    before = made.proposer.before_propose
    made.output = None
    monkeypatch.setattr(
        made.proposer, "before_propose", lambda batch, states, _: before(batch, states, made.output)
    )
    made.add("a", PROMPT, max_tokens=None)
    return made, clock


def test_drafts_that_cost_too_much_stop(runner):
    made, clock = runner
    lengths = decode(made, clock, lambda drafts: 0.01 + 0.02 * drafts, 200)
    assert any(lengths[:20])
    assert sum(map(bool, lengths[50:])) <= 3
    stats = made.proposer.stats()
    assert stats.granted == lengths[-1]
    assert stats.step_costs
    assert {(r, k): s for r, k, s in stats.step_costs}[1, 0] == pytest.approx(0.01, rel=0.05)


def test_drafts_that_cost_nothing_go_on(runner):
    made, clock = runner
    lengths = decode(made, clock, lambda drafts: 0.01 + 0.0001 * drafts, 150)
    assert sum(map(bool, lengths[50:])) >= 80
    assert "less time than plain decoding" in str(made.proposer.stats())
