"""Nothing is drafted where vLLM's speculative path would not be exact."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from redraft.recipe.vllm.exactness import within_bounds

PROMPT = [7, 8, 9]
TEXT = list(range(101, 150))


@pytest.fixture
def start(make_runner):
    """Return `start(**parameters)`: a runner in which "b" repeats "a" and has these sampling parameters."""

    def start(**parameters):
        runner = make_runner()
        for name in "ab":
            runner.add(name, PROMPT)
        vars(runner.requests["b"].sampling_params).update(parameters)
        return runner

    return start


def test_a_request_without_such_parameters_gets_a_full_draft(start):
    assert start().step(a=TEXT[:20], b=TEXT[:1])["b"] == TEXT[1:5]


@pytest.mark.parametrize(
    ("min_tokens", "written", "drafted"),
    [(1, 1, 4), (2, 1, 0), (3, 1, 1), (4, 1, 2), (6, 1, 4), (99, 1, 4), (4, 3, 0), (4, 4, 4)],
)
def test_a_draft_does_not_cross_min_tokens(start, min_tokens, written, drafted):
    runner = start(min_tokens=min_tokens)
    assert runner.step(a=TEXT[:20], b=TEXT[:written])["b"] == TEXT[written : written + drafted]


def test_drafting_goes_on_behind_min_tokens(start):
    runner = start(min_tokens=3)
    assert runner.step(a=TEXT[:20], b=TEXT[:1])["b"] == TEXT[1:2]
    assert runner.step(b=TEXT[1:3], a=[])["b"] == TEXT[3:7]


def test_a_thinking_budget_is_not_drafted_for(start):
    assert start(thinking_token_budget=5).step(a=TEXT[:20], b=TEXT[:1])["b"] == []
    assert start(thinking_token_budget=None).step(a=TEXT[:20], b=TEXT[:1])["b"] == TEXT[1:5]


@pytest.mark.parametrize(
    ("version", "drafted"), [("0.31.0", 0), ("0.24.0+cpu", 0), ("0.32.0", 4), ("0.33.1", 4), ("1.0.0", 4)]
)
def test_stop_strings_are_drafted_for_where_vllm_cuts_what_is_behind_them(
    start, monkeypatch, version, drafted
):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__=version))
    runner = start(stop=["end"])
    assert runner.step(a=TEXT[:20], b=TEXT[:1])["b"] == TEXT[1 : 1 + drafted]


def test_a_draft_is_cut_where_its_request_has_no_more_room():
    drafts = np.array([5, 6, 7, 8, 9], np.int32), np.array([0, 3, 3, 5])
    assert within_bounds(*drafts, np.array([3, 4, 4], np.int32), 10) == [[5, 6, 7], [], [8, 9]]
    assert within_bounds(*drafts, np.array([2, 0, 0], np.int32), 10) == [[5, 6], [], []]


@pytest.mark.parametrize("strange", [10, 2**31 - 1, -1])
def test_a_draft_ends_before_a_token_that_the_model_does_not_have(strange):
    token_ids, offsets = np.array([5, strange, 7, 9], np.int32), np.array([0, 3, 4])
    assert within_bounds(token_ids, offsets, np.array([4, 4], np.int32), 10) == [[5], [9]]
