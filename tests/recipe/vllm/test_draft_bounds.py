"""Nothing is drafted where vLLM's speculative path would not be exact."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

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
