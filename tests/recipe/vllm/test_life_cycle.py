"""The life of requests, seen through a hand-made batch: what vLLM does to rows, and what the proposer drafts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

PROMPT = [11, 12, 13, 14, 15]
TEXT = list(range(100, 140))
"""A response in which every token occurs once, so that a match can only be the right one."""


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until something in the background has happened."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def finish_one(runner: Any, prompt: list[int], response: list[int], request_id: str = "earlier") -> None:
    """Roll out `response` and have it in the embedded history."""
    runner.add(request_id, prompt)
    runner.step(**{request_id: response})
    runner.finish(request_id)
    seen = runner.proposer._source.arrivals
    runner.proposer._requests.sweep(runner.requests)
    wait_for(lambda: runner.proposer._source.arrivals > seen)


def test_a_sibling_is_drafted_from_the_other_siblings_text(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    assert runner.step(a=TEXT[:10], b=TEXT[:3])["b"] == TEXT[3:7]
    assert runner.proposer.stats().groups == 1


def test_requests_to_other_prompts_are_no_siblings(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.add("b", [*PROMPT, 16])
    runner.step(a=TEXT[:10], b=TEXT[:3])
    runner.step(a=TEXT[10:11], b=TEXT[3:4])
    assert sum(runner.proposer.stats().drafted["live"]) == 0  # the core's index over all prompts may draft
    assert runner.proposer.stats().groups == 2


def test_the_first_token_of_a_sibling_is_drafted_too(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.step(a=TEXT[:10])
    runner.add("b", PROMPT)
    assert runner.step(a=TEXT[10:11], b=[TEXT[0]])["b"] == TEXT[1:5]


def test_a_row_in_prefill_gets_no_draft_and_starts_later(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    for i in range(10):
        assert runner.step(a=TEXT[i : i + 1])["b"] == []
    assert runner.step(a=[TEXT[10]], b=TEXT[:2])["b"] == TEXT[2:6]


def test_what_ended_is_history_for_the_next_request_to_the_prompt(make_runner):
    runner = make_runner()
    finish_one(runner, PROMPT, TEXT)
    assert (runner.proposer.stats().requests, runner.proposer.stats().groups) == (0, 0)
    runner.add("b", PROMPT)
    assert runner.step(b=TEXT[:1])["b"] == TEXT[1:5]
    runner.step(b=TEXT[1:6])
    assert sum(runner.proposer.stats().accepted["history"]) == 4


def test_history_that_arrives_while_a_request_runs_is_used(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.step(a=TEXT[:30])
    runner.finish("a")
    runner.add("b", [*PROMPT, 99])
    runner.step(b=[200])  # closes "a"; its group's index is being built
    runner.add("c", PROMPT)
    runner.step(b=[201], c=[])
    wait_for(lambda: runner.proposer._source.arrivals == 1)
    time.sleep(0.02)
    assert runner.step(b=[202], c=TEXT[:2])["c"] == TEXT[2:6]


def test_a_preempted_request_goes_on_where_it_was(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    runner.step(a=TEXT[:20], b=TEXT[:3])
    runner.preempt("b")
    runner.step(a=[TEXT[20]])
    assert runner.proposer.stats().requests == 2
    runner.resume("b")
    assert runner.step(a=[TEXT[21]])["b"] == []  # its prefill is done over
    assert runner.step(a=[TEXT[22]], b=[TEXT[3]])["b"] == TEXT[4:8]
    assert runner.proposer.stats().steps == 6


def test_rows_that_move_keep_their_requests(make_runner):
    runner = make_runner()
    for name in "abc":
        runner.add(name, PROMPT)
    runner.step(a=TEXT[:20], b=[300, 301], c=TEXT[:3])
    runner.finish("a")  # "c" moves into row 0
    assert runner.batch.req_ids == ["c", "b"]
    drafts = runner.step(b=[302], c=[TEXT[3]])
    assert drafts == {"c": TEXT[4:8], "b": []}


def test_an_aborted_request_is_closed_though_nobody_says_so(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    runner.step(a=TEXT[:4], b=TEXT[:3])
    runner.finish("a")
    runner.step(b=[TEXT[3]])
    assert runner.proposer.stats().requests == 1


def test_an_idle_engines_requests_are_swept_up(make_runner, monkeypatch):
    monkeypatch.setattr("redraft.recipe.vllm.proposer.IDLE_SECONDS", (0.01, 0.1))
    runner = make_runner(report_seconds=0.01)
    runner.add("a", PROMPT)
    runner.step(a=TEXT[:20])  # its last step: vLLM keeps its state until another one comes
    wait_for(lambda: runner.proposer.stats().requests == 0)
    wait_for(lambda: runner.proposer._source.arrivals == 1)
    runner.step(a=[TEXT[20]])  # it was only paused
    assert runner.proposer.stats().requests == 1
    assert runner.requests["a"].output_token_ids == TEXT[:21]


def test_a_request_id_that_is_used_again_is_another_request(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.step(a=TEXT[:10])
    runner.finish("a")
    runner.add("a", PROMPT)
    runner.step(a=[300])
    assert runner.proposer.stats().requests == 1
    assert runner.proposer._ended.num_tokens == 10


def test_a_resumed_rollout_finds_its_group_again(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    runner.step(a=TEXT[:20], b=TEXT[:6])
    runner.finish("b")  # aborted, and resumed with what it had in its prompt
    runner.step(a=[TEXT[20]])
    runner.add("b2", [*PROMPT, *TEXT[:6]])
    assert runner.step(a=[TEXT[21]], b2=[TEXT[6]])["b2"] == TEXT[7:11]
    assert runner.proposer.stats().groups == 1
    runner.finish("a")
    runner.finish("b2")
    runner.add("x", [1])
    runner.step(x=[2])
    assert (
        runner.proposer._ended.num_tokens == 22 + 7
    )  # the whole response once, its aborted part not beside it


TOOL = [500, 501, 502]


def converse(runner: Any, name: str, first: list[int], tool: list[int], second: list[int]) -> None:
    """Roll out two turns of a conversation; nobody else runs."""
    runner.add(f"{name}1", PROMPT)
    runner.step(**{f"{name}1": first})
    runner.finish(f"{name}1")
    runner.step()
    runner.add(f"{name}2", [*PROMPT, *first, *tool])
    runner.step(**{f"{name}2": second})
    seen = runner.proposer._source.arrivals
    runner.finish(f"{name}2")
    runner.proposer._requests.sweep(runner.requests)
    wait_for(lambda: runner.proposer._source.arrivals > seen)


def test_a_further_turn_is_drafted_from_what_siblings_said_after_the_same_answer(make_runner):
    runner = make_runner()
    converse(runner, "a", TEXT[:8], TOOL, TEXT[20:30])
    runner.add("b1", PROMPT)
    assert runner.step(b1=TEXT[:2])["b1"] == TEXT[2:6]
    runner.step(b1=TEXT[2:8])
    runner.finish("b1")
    runner.step()
    runner.add("b2", [*PROMPT, *TEXT[:8], *TOOL])
    assert runner.step(b2=[TEXT[20]])["b2"] == TEXT[21:25]
    assert [len(g.prompt) for g in runner.proposer._groups._by_key.values()] == [len(PROMPT)]
    runner.finish("b2")
    runner.proposer._requests.sweep(runner.requests)
    assert len(runner.proposer._ended.of(np.array(PROMPT, np.int32))) == 2  # a trajectory each


def test_what_a_tool_said_is_never_drafted(make_runner):
    runner = make_runner()
    converse(runner, "a", TEXT[:8], TOOL, TEXT[20:30])
    runner.add("b", PROMPT)
    assert runner.step(b=TEXT[:6])["b"] == TEXT[6:8]  # the turn's end, and not on into the answer
    assert runner.step(b=TEXT[6:8])["b"] == []
    assert runner.step(b=TOOL[:1])["b"] == []  # not even to a policy that writes the tool's words itself


def test_a_running_siblings_answer_is_never_drafted_either(make_runner):
    runner = make_runner()
    runner.add("a1", PROMPT)
    runner.add("b", PROMPT)
    runner.step(a1=TEXT[:8])
    runner.finish("a1")
    runner.step()
    runner.add("a2", [*PROMPT, *TEXT[:8], *TOOL])
    assert runner.step(a2=TEXT[20:24], b=TEXT[:6])["b"] == TEXT[6:8]
    assert runner.proposer.stats().groups == 1


def test_a_prompt_that_merely_extends_another_is_its_own(make_runner):
    runner = make_runner()
    finish_one(runner, PROMPT, TEXT)
    runner.add("b", [*PROMPT, 500, 501])
    runner.step(b=[TEXT[0]])
    assert [len(g.prompt) for g in runner.proposer._groups._by_key.values()] == [len(PROMPT) + 2]


def test_steps_that_skip_the_proposer_are_caught_up(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    runner.step(a=TEXT[:20], b=TEXT[:2])
    runner.step(propose=False, a=[TEXT[20]], b=TEXT[2:5])
    assert runner.step(a=[TEXT[21]], b=[TEXT[5]])["b"] == TEXT[6:10]


def test_tokens_that_vllm_takes_back_are_forgotten(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    runner.step(a=TEXT[:20], b=[*TEXT[:3], 300, 301])
    del runner.requests["b"].output_token_ids[3:]
    runner.batch.num_tokens_no_spec[1] -= 2
    assert runner.step(a=[TEXT[20]], b=[TEXT[3]])["b"] == TEXT[4:8]


def test_text_that_changed_at_the_same_length_is_noticed(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    runner.step(a=TEXT[:20], b=[*TEXT[:2], 300])
    runner.batch.token_ids_cpu[1, len(PROMPT) + 2] = TEXT[2]
    assert runner.step(a=[TEXT[20]], b=[TEXT[3]])["b"] == TEXT[4:8]


def test_a_session_that_grows_its_prompt_is_opened_anew(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT)
    runner.step(a=TEXT[:4])
    state = runner.requests["a"]
    runner.preempt("a")
    state.prompt_token_ids = [*PROMPT, *TEXT[:4], 40, 41]
    state.output_token_ids.clear()
    runner.resume("a")
    runner.step(a=[300])
    assert runner.proposer.stats().requests == 1
    runner.finish("a")
    runner.add("x", [1])
    runner.step(x=[2])
    assert runner.proposer.stats().requests == 1


def test_drafts_end_before_the_token_limit_and_the_model_length(make_runner):
    runner = make_runner(drafts=100)
    runner.add("a", PROMPT)
    runner.step(a=TEXT[:30])
    runner.add("b", PROMPT, max_tokens=12)
    assert runner.step(a=[TEXT[30]], b=TEXT[:10])["b"] == TEXT[10:11]  # that and a bonus token make 12
    runner.finish("b")
    runner.add("c", PROMPT, max_tokens=None)
    assert len(runner.step(a=[TEXT[31]], c=TEXT[:3])["c"]) == 32 - 3
    runner.proposer._requests._limits[:] = len(PROMPT) + 5
    assert runner.step(a=[TEXT[32]], c=[TEXT[3]])["c"] == []


def test_drafts_are_never_longer_than_speculative_tokens(make_runner):
    runner = make_runner(drafts=3)
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    assert runner.step(a=TEXT, b=TEXT[:2])["b"] == TEXT[2:5]
    assert runner.step(horizon=1, a=[300], b=[TEXT[2]])["b"] == TEXT[3:4]  # vLLM's dynamic speculation
    assert runner.step(horizon=0, a=[301], b=[TEXT[3]])["b"] == []


def test_a_budget_bounds_the_whole_batch(make_runner):
    runner = make_runner(budget=5)
    for name in "abcd":
        runner.add(name, PROMPT)
    drafts = runner.step(a=TEXT, b=TEXT[:2], c=TEXT[:3], d=TEXT[:4])
    assert sum(map(len, drafts.values())) == 5


def test_what_is_sampled_after_the_end_token_is_not_learned(make_runner):
    runner = make_runner()
    runner.add("a", PROMPT, end=0)
    runner.add("b", PROMPT, end=0)
    drafts = runner.step(a=[*TEXT[:4], 0, 900, 901], b=TEXT[:3])
    assert drafts == {"a": [], "b": [TEXT[3], 0]}
    runner.finish("a")
    runner.finish("b")
    runner.proposer._requests.sweep(runner.requests)
    assert runner.proposer._ended.num_tokens == 5 + 3


def test_tokens_beyond_the_vocabulary_are_never_drafted(make_runner):
    runner = make_runner(vocab_size=104)
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    assert runner.step(a=TEXT[:20], b=TEXT[:1])["b"] == [101, 102, 103]


def test_a_prompt_of_embeddings_is_drafted_from_its_own_text_only(make_runner):
    runner = make_runner()
    for name in "ab":
        runner.add(name, [0, 0, 0])
        runner.requests[name].prompt_token_ids = None
    runner.step(a=TEXT[:20], b=TEXT[:2])
    assert runner.step(a=[*TEXT[:3]], b=[TEXT[2]])["a"] == TEXT[3:7]
    assert sum(runner.proposer.stats().drafted["live"]) == 0
    runner.step(a=[TEXT[3]], b=[TEXT[3]])
    assert sum(runner.proposer.stats().drafted["live"]) > 0


def test_more_requests_than_rows_so_far_are_taken(make_runner):
    runner = make_runner()
    for i in range(300):
        runner.add("a", [i, 1])
        runner.step(a=TEXT[:5])
        runner.finish("a")
    runner.add("b", PROMPT)
    runner.step(b=[1])
    assert runner.proposer.stats().requests == 1


def test_only_the_first_rank_of_the_last_stage_drafts(make_runner):
    runner = make_runner(rank=1, ranks=2)
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    assert runner.step(a=TEXT[:10], b=TEXT[:3]) == {"a": [], "b": []}
    assert not hasattr(runner.proposer, "_drafter")


def test_an_error_while_drafting_turns_drafting_off_and_nothing_else(make_runner, caplog):
    runner = make_runner(strict=False)
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    runner.batch.num_prompt_tokens = None
    assert runner.step(a=TEXT[:10], b=TEXT[:3]) == {"a": [], "b": []}
    assert "drafting failed and is off" in caplog.text
    assert runner.step(a=[1], b=[2]) == {"a": [], "b": []}


def test_without_the_patch_the_error_says_so(make_proposer):
    proposer = make_proposer()
    with pytest.raises(Exception, match="before_propose: was not called"):
        proposer.propose([[1]], None, None)
