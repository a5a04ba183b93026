"""A real engine that preempts, aborts, resumes and runs into the model's length, while drafting."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def outcome(run_engine, tiny_model):
    draw = random.Random(9)
    prompts = [[draw.randrange(2, 1024) for _ in range(90 + i)] for i in range(6)]
    settings = {"model": str(tiny_model), "prompts": prompts}
    return run_engine(Path(__file__).parent / "engines" / "pressure.py", settings)


def test_requests_were_preempted_and_drafts_accepted(outcome):
    assert outcome["preemptions"] > 0
    assert sum(outcome["stats"]["accepted"]["history"]) > 50
    assert sum(outcome["stats"]["accepted"]["live"]) > 0


def test_every_response_is_the_greedy_one(outcome):
    lengths = {"pressed": [100] * 12, "longest": [256 - 90, 256 - 91, 256 - 92], "beside": [100] * 3}
    for kind, expected in lengths.items():
        names = [name for name in outcome["responses"] if name.startswith(kind)]
        assert sorted(len(outcome["responses"][name]) for name in names) == sorted(expected)
    assert {name: ranks for name, ranks in outcome["ranks"].items() if ranks != [1]} == {}


def test_others_draft_on_while_a_request_reaches_the_models_length(outcome):
    assert outcome["near"]
    assert any(max(lengths) == 6 for lengths in outcome["near"])


def test_a_resumed_response_is_the_one_that_was_aborted(outcome):
    assert any(outcome["parts"])
    for i, part in enumerate(outcome["parts"]):
        resumed = part + outcome["responses"][f"resumed {i}"]
        assert resumed == outcome["responses"][f"pressed {i}"][:60]


def test_no_request_of_an_earlier_phase_stays_open(outcome):
    # The last step's own requests are closed by the next one, or when the engine idles.
    assert all(count <= 12 for count in outcome["open_requests"])
    assert outcome["open_requests"][-1] <= 3
