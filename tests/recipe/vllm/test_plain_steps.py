"""Steps without drafts: what they skip, and that nothing is lost by it."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from redraft.recipe.vllm import proposer as proposer_module
from redraft.recipe.vllm.plain_steps import decode_plainly, fetch_no_empty_drafts, is_recurrent

PROMPT = [11, 12, 13, 14, 15]
TEXT = list(range(100, 160))


def step_of(**scheduled: int) -> Any:
    """What vLLM's scheduler says of a step that computes so many tokens of each request."""
    return SimpleNamespace(num_scheduled_tokens=scheduled, total_num_scheduled_tokens=sum(scheduled.values()))


@pytest.fixture
def patient(monkeypatch):
    """Steps are put off for as long as the test takes."""
    monkeypatch.setattr(proposer_module, "PUT_OFF_SECONDS", 1000.0)


def test_a_budget_of_zero_counts_every_step_and_token_and_drafts_nothing(patient, make_runner):
    runner = make_runner(budget=0)
    for name in "ab":
        runner.add(name, PROMPT)
    for token_id in TEXT[:30]:
        assert runner.step(a=[token_id], b=[token_id + 100]) == {"a": [], "b": []}
    runner.step(a=[TEXT[30]])  # b was not scheduled
    stats = runner.proposer.stats()
    assert (stats.engine_steps, stats.steps, stats.emitted) == (31, 61, 61)
    assert stats.mean_acceptance_length == 1.0
    assert sum(map(sum, stats.drafted.values())) == 0


def test_steps_that_were_put_off_are_made_up_for_when_drafting_resumes(patient, make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.step(a=TEXT[:3])
    for token_id in TEXT[3:20]:
        assert runner.step(horizon=0, a=[token_id]) == {"a": []}
    assert runner.step(horizon=0, a=[TEXT[5]]) == {"a": []}
    assert runner.step(a=[TEXT[6]]) == {"a": TEXT[7:11]}
    runner.step(a=TEXT[7:12])
    stats = runner.proposer.stats()
    assert (stats.steps, stats.emitted) == (21, 27)
    assert sum(stats.accepted["live"]) == 4


def test_an_engine_that_never_drafts_is_asked_no_more_until_its_batch_changes(patient, make_runner):
    runner = make_runner(budget=0)

    def rests(**scheduled: int) -> bool:
        return runner.proposer.rests(runner.batch, step_of(**scheduled))

    for name in "ab":
        runner.add(name, PROMPT)
    assert not rests(a=5, b=5)
    runner.step(a=[1], b=[2])
    for token_id in TEXT[:10]:
        assert rests(a=1, b=1)
        runner.step(propose=False, a=[token_id], b=[token_id])
    assert not rests(a=1)  # b was not scheduled
    assert not rests(a=1, b=2)
    runner.step(a=[3])
    for _ in range(2):  # reading the counts changes nothing
        stats = runner.proposer.stats()
        assert (stats.engine_steps, stats.steps, stats.emitted) == (12, 23, 23)
    runner.add("c", PROMPT)
    assert not rests(a=1, b=1, c=3)
    runner.step(a=[4], b=[4])  # c is in prefill
    assert not rests(a=1, b=1, c=1)
    runner.step(a=[5], b=[5], c=[5])
    assert rests(a=1, b=1, c=1)
    runner.step(propose=False, a=[6], b=[6], c=[6])
    runner.proposer._advance_by = 0.0
    assert not rests(a=1, b=1, c=1)
    runner.finish("b")
    assert not rests(a=1, c=1)
    runner.step(a=[6], c=[6])
    stats = runner.proposer.stats()
    assert stats.requests == 2
    assert (stats.steps, stats.emitted) == (33, 33)


def test_what_was_written_while_the_proposer_rested_is_kept_when_vllm_lets_go(
    patient, make_runner, monkeypatch
):
    monkeypatch.setattr(proposer_module, "IDLE_SECONDS", (0.0, 1000.0))
    runner = make_runner(budget=0)
    runner.add("a", PROMPT)
    runner.step(a=[TEXT[0]])
    for token_id in TEXT[1:21]:
        assert runner.proposer.rests(runner.batch, step_of(a=1))
        runner.step(propose=False, a=[token_id])
    runner.finish("a")
    runner.proposer._keep_house()
    stats = runner.proposer.stats()
    assert (stats.engine_steps, stats.steps, stats.emitted, stats.requests) == (21, 21, 21, 0)
    (kept,) = runner.proposer._ended.of(np.array(PROMPT, np.int32))
    assert kept.tolist() == TEXT[:21]


def test_an_engine_that_may_draft_is_always_asked(patient, make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.step(horizon=0, a=[1])
    runner.step(horizon=0, a=[2])
    assert not runner.proposer.rests(runner.batch, step_of(a=1))


def test_a_rank_whose_drafts_nobody_uses_is_never_asked(make_proposer):
    proposer = make_proposer(rank=1, ranks=2)
    assert proposer.rests(SimpleNamespace(req_ids=["a"]), step_of(a=5))


def test_a_request_that_ends_leaves_its_siblings_what_was_put_off(patient, make_runner):
    runner = make_runner()
    for name in "ab":
        runner.add(name, PROMPT)
        runner.step(horizon=0, **{name: [7]})
    for token_id in TEXT[:20]:
        runner.step(horizon=0, a=[token_id], b=[7])
    runner.finish("a")
    assert runner.step(b=TEXT[4:6]) == {"b": TEXT[6:10]}
    assert runner.proposer.stats().emitted == 44
    assert runner.proposer.stats().steps == 43


def test_a_changed_batch_is_looked_at_in_the_very_step(patient, make_runner):
    runner = make_runner(budget=0)
    runner.add("a", PROMPT)
    runner.step(a=[1])
    runner.add("b", PROMPT)
    runner.step(a=[2], b=[3])
    assert runner.proposer.stats().requests == 2
    runner.finish("a")
    runner.step(b=[4])
    assert runner.proposer.stats().requests == 1
    runner.finish("b")
    runner.add("b", [1, 2])  # the same name in the same row
    runner.step(b=[4])
    runner.step(horizon=0)
    runner.proposer._advance_by = 0.0
    runner.step(b=[5])
    assert (runner.proposer.stats().requests, runner.proposer.stats().groups) == (1, 1)
    assert [list(prompt) for prompt in runner.proposer._groups.prompts()] == [[1, 2]]


def test_an_automatic_budget_learns_from_steps_that_were_put_off(patient, make_runner, monkeypatch):
    runner = make_runner(budget="auto")
    monkeypatch.setattr(runner.proposer._budget, "plan", lambda requests: proposer_module.PLAIN)
    observed: list[Any] = []
    monkeypatch.setattr(runner.proposer._budget, "observe", lambda *what: observed.append(what[:3]))
    monkeypatch.setattr(proposer_module, "decoded", lambda output: (1, 0))
    runner.add("a", PROMPT)
    for token_id in TEXT[:10]:
        runner.step(a=[token_id])
    assert observed == [(1, 0, 1)] * 9
    runner.step(propose=False, a=[TEXT[10]])  # vLLM made a step of which the proposer was not told
    runner.step(a=[TEXT[11]])
    assert len(observed) == 9
    runner.step(a=[TEXT[12]])
    assert len(observed) == 10


class Runner:
    """The two methods of vLLM's runner that are wrapped, as 0.32 has them."""

    def __init__(self, drafter: Any) -> None:
        self.speculative_config = "configured"
        self.drafter = drafter
        self.input_batch = SimpleNamespace(thinking_budget_state_holder=None)
        self._draft_token_ids: Any = [[], []]

    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        if num_scheduled_tokens is None:
            raise KeyError("num_scheduled_tokens")
        return self.speculative_config

    def take_draft_token_ids(self) -> Any:
        return "taken"


@pytest.fixture
def runner_class():
    """A fresh class, patched."""
    module = SimpleNamespace(GPUModelRunner=type("GPUModelRunner", (Runner,), dict(Runner.__dict__)))
    decode_plainly(module)
    patched = module.GPUModelRunner._prepare_inputs
    decode_plainly(module)
    assert module.GPUModelRunner._prepare_inputs is patched
    return module.GPUModelRunner


def scheduled(**drafts: list[int]) -> Any:
    return SimpleNamespace(scheduled_spec_decode_tokens=drafts)


def drafter(rests: bool = False) -> Any:
    return SimpleNamespace(plain_steps=True, rests=lambda batch, scheduler_output: rests)


def test_only_a_step_without_drafts_is_prepared_as_a_plain_one(runner_class):
    runner = runner_class(drafter())
    assert runner._prepare_inputs(scheduled(), []) is None
    assert runner._prepare_inputs(scheduled(a=[1]), []) == "configured"
    with pytest.raises(KeyError):
        runner._prepare_inputs(scheduled(), None)
    assert runner.speculative_config == "configured"
    assert runner.take_draft_token_ids() is None
    runner._draft_token_ids = [[], [1]]
    assert runner.take_draft_token_ids() == "taken"
    runner._draft_token_ids = np.zeros((2, 6))  # vLLM's zeros, where a draft would not fit
    assert runner.take_draft_token_ids() == "taken"


def executor_of(runner: Any) -> Any:
    """What vLLM's executor in one process has of it, patched; its own call answers "called"."""
    executor = type("UniProcExecutor", (), {"take_draft_token_ids": lambda self: "called"})
    module = SimpleNamespace(UniProcExecutor=executor)
    fetch_no_empty_drafts(module)
    patched = executor.take_draft_token_ids
    fetch_no_empty_drafts(module)
    assert executor.take_draft_token_ids is patched
    made = executor()
    made.driver_worker = SimpleNamespace(worker=SimpleNamespace(model_runner=runner))
    return made


def test_the_worker_is_called_for_drafts_only_where_there_may_be_one(runner_class):
    runner = runner_class(drafter())
    executor = executor_of(runner)
    for nothing in (None, [], [[], []]):
        runner._draft_token_ids = nothing
        assert executor.take_draft_token_ids() is None
    for drafts in ([[], [1]], np.zeros((2, 6))):
        runner._draft_token_ids = drafts
        assert executor.take_draft_token_ids() == "called"


@pytest.mark.parametrize("other", [SimpleNamespace(), SimpleNamespace(plain_steps=False)])
def test_the_worker_is_called_for_other_proposers_drafts(runner_class, other):
    runner = runner_class(other)
    runner._draft_token_ids = None
    executor = executor_of(runner)
    assert executor.take_draft_token_ids() == "called"
    del runner.drafter
    assert executor.take_draft_token_ids() == "called"
    del executor.driver_worker
    assert executor.take_draft_token_ids() == "called"
    fetch_no_empty_drafts(SimpleNamespace())


def test_while_the_proposer_rests_the_runner_is_one_without_speculation(runner_class):
    runner = runner_class(drafter(rests=True))
    for _ in range(2):
        assert runner._prepare_inputs(scheduled(), []) is None
        assert runner.speculative_config is None
    assert runner._prepare_inputs(scheduled(a=[1]), []) == "configured"
    assert runner.speculative_config == "configured"
    assert runner._prepare_inputs(scheduled(), []) is None
    runner.drafter.rests = lambda batch, scheduler_output: False
    assert runner._prepare_inputs(scheduled(), []) is None
    assert runner.speculative_config == "configured"
    runner.drafter.rests = lambda batch, scheduler_output: True
    with pytest.raises(KeyError):
        runner._prepare_inputs(scheduled(), None)
    assert runner.speculative_config == "configured"
    never = runner_class(drafter(rests=True))
    never.speculative_config = None
    assert never._prepare_inputs(scheduled(), []) is None


def test_a_batch_with_a_thinking_budget_keeps_the_path_that_its_state_is_made_for(runner_class):
    tracked = [True]
    runner = runner_class(drafter())
    runner.input_batch = SimpleNamespace(
        thinking_budget_state_holder=SimpleNamespace(has_tracked_requests=lambda: tracked[0])
    )
    assert runner._prepare_inputs(scheduled(), []) == "configured"
    tracked[0] = False
    assert runner._prepare_inputs(scheduled(), []) is None
    runner.input_batch.thinking_budget_state_holder = None
    assert runner._prepare_inputs(scheduled(), []) is None


@pytest.mark.parametrize("other", [SimpleNamespace(), SimpleNamespace(plain_steps=False)])
def test_other_proposers_and_recurrent_models_are_left_alone(runner_class, other):
    runner = runner_class(other)
    assert runner._prepare_inputs(scheduled(), []) == "configured"
    assert runner.take_draft_token_ids() == "taken"
    del runner.drafter  # a rank without proposer
    assert runner._prepare_inputs(scheduled(), []) == "configured"


def test_a_model_is_taken_for_recurrent_unless_it_says_no():
    plain = {"is_hybrid": False, "is_attention_free": False, "has_inner_state": False}
    assert not is_recurrent(SimpleNamespace(**plain))
    assert is_recurrent(SimpleNamespace(**{**plain, "has_inner_state": True}))
    assert is_recurrent(SimpleNamespace(is_hybrid=False))


def test_a_runner_without_the_methods_is_left_alone():
    module = SimpleNamespace(GPUModelRunner=type("GPUModelRunner", (), {}))
    decode_plainly(module)
    decode_plainly(SimpleNamespace())
    assert not hasattr(module.GPUModelRunner, "_prepare_inputs")


@pytest.mark.vllm
def test_an_engine_samples_the_same_past_the_rejection_sampler_as_through_it(run_engine, tiny_model):
    draw = random.Random(3)
    prompts = [[draw.randrange(2, 1024) for _ in range(20 + i)] for i in range(12)]
    script = Path(__file__).parent / "engines" / "plain_steps.py"
    result = run_engine(script, {"model": str(tiny_model), "prompts": prompts})
    past, through = result["past"], result["through"]
    assert [ids for ids, _ in past["responses"]] == [ids for ids, _ in through["responses"]]
    for (_, mine), (_, theirs) in zip(past["responses"], through["responses"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    assert through["rejections"] > 50
    assert through["told"] > 50
    assert past["told"] == 0
    assert 0 < past["asked"] < through["asked"]
    # vLLM itself pads the drafts of a request that starts with one token to go; nothing here does.
    assert past["rejections"] == 0
    assert result["stats"]["emitted"] == 2 * 12 * 40
    assert result["stats"]["steps"] == result["stats"]["emitted"]
