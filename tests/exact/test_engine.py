"""With drafting vLLM emits what it emits without: the same greedy text, the same log-probabilities, and under
position-keyed sampling the same text for a seed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

SCRIPT = Path(__file__).parent / "engines" / "engine.py"
TOLERANCE = 1e-3
"""On a log-probability in float32: verification computes several positions of a request in one matrix product,
which sums in another order than one position at a time. The spread over runs of the same text without
drafting, prefill against decoding, is of the same size."""

KEYED = {"REDRAFT_KEYED_SAMPLING": "1"}
"""Concerns requests with a seed only."""


def make_prompts(vocab_size: int = 1024) -> list[list[int]]:
    """32 prompts of 5 to 36 tokens."""
    draw = random.Random(5)
    return [[draw.randrange(2, vocab_size) for _ in range(5 + i)] for i in range(32)]


@pytest.fixture(scope="module")
def drafted(run_engine, tiny_model):
    settings = {
        "model": str(tiny_model),
        "prompts": make_prompts() * 2,  # two siblings to a prompt
        "drafted": True,
        "options": {"min_survival": 0.0, "budget": -1},
        "rounds": 2,
        "texts": [],
    }
    return run_engine(SCRIPT, settings, KEYED)


@pytest.fixture(scope="module")
def plain(run_engine, tiny_model, drafted):
    settings = {
        "model": str(tiny_model),
        "prompts": make_prompts(),
        "drafted": False,
        "rounds": 1,
        "texts": [[prompt, response] for prompt, response, _ in drafted["sampled"]],
    }
    return run_engine(SCRIPT, settings, KEYED)


@pytest.fixture(scope="module")
def automatic(run_engine, tiny_model):
    """Drafts switch on and off as steps take long or not."""
    settings = {
        "model": str(tiny_model),
        "prompts": make_prompts()[:8] * 2,
        "drafted": True,
        "options": {"min_survival": 0.0, "budget": "auto"},
        "rounds": 1,
        "texts": [],
    }
    return run_engine(SCRIPT, settings)


def test_drafting_was_active_ragged_and_from_both_sources(drafted):
    greedy, total = (
        {source: sum(counts) for source, counts in stats["accepted"].items()} for stats in drafted["stats"]
    )
    assert min(greedy["history"], greedy["live"]) > 1000
    assert sum(total.values()) - sum(greedy.values()) > 1000  # while sampling
    assert len(drafted["draft_lengths"]) >= 4
    assert set(drafted["draft_lengths"]) <= set(range(7))


def test_greedy_text_is_the_same_with_and_without_drafting(drafted, plain):
    expected = plain["greedy"][0]
    assert all(len(response) == 128 for response in expected)
    for responses in drafted["greedy"]:
        assert responses == expected * 2


def test_greedy_text_is_the_same_under_an_automatic_budget(automatic, plain):
    assert automatic["draft_lengths"][0] == 0
    assert automatic["draft_lengths"][-1] > 0
    assert automatic["stats"][0]["step_costs"]  # vLLM's steps can be timed
    assert automatic["greedy"] == [plain["greedy"][0][:8] * 2]


def test_sampled_log_probabilities_are_those_of_teacher_forcing(drafted, plain):
    assert len(drafted["sampled"]) == 2 * 16 * 4
    worst = max(
        abs(ours - theirs)
        for (_, _, values), expected in zip(drafted["sampled"], plain["log_probabilities"], strict=True)
        for ours, theirs in zip(values, expected, strict=True)
    )
    assert worst < TOLERANCE


def test_position_keyed_sampling_writes_the_same_tokens_with_and_without_drafting(drafted, plain):
    (expected,) = plain["seeded"]
    assert len({tuple(text) for texts in expected for text in texts}) == 3 * 16  # prompts and seeds matter
    assert len({len(text) for text in expected[2]}) > 3  # stop tokens matter
    assert min(map(len, expected[2])) > 12
    for responses in drafted["seeded"]:
        assert responses == expected
    assert drafted["accepted_while_seeded"] > 500
