"""A real engine that sleeps, gets other weights and wakes up in the middle of rollouts, while drafting."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

KINDS = ("loaded", "kept", "aborted", "fresh")


@pytest.fixture(scope="module")
def outcome(run_engine, tiny_model):
    draw = random.Random(5)
    settings = {
        "model": str(tiny_model),
        "prompts": [[draw.randrange(2, 1024) for _ in range(20 + i)] for i in range(4)],
    }
    return run_engine(Path(__file__).parent / "engines" / "wake.py", settings)


def test_requests_were_caught_in_the_middle(outcome):
    for parts in outcome["parts"].values():
        assert len(parts) == 8
        assert all(0 < part < 90 for part in parts)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_after_waking_up_is_what_the_new_weights_write(outcome, kind):
    assert outcome[kind]["ranks"] == [1]
    assert outcome[kind]["lengths"] == [20 + 90 + i for i in range(4)]


def test_drafting_goes_on_after_each_change_of_weights(outcome):
    accepted = [outcome[kind]["accepted"] for kind in KINDS]
    assert 0 < accepted[0] < accepted[1] < accepted[2] < accepted[3]


def test_no_request_of_before_stays_open(outcome):
    assert outcome["after_abort"] == 8  # the resumed ones; the aborted ones are gone
    # The request that the ranks were asked with last: nobody has stepped since.
    assert [outcome[kind]["open"] for kind in KINDS] == [[1, 1]] * 4
