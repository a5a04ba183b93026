"""Data-parallel engines draft each for itself, none waits for the other, and the text is the model's own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.long]

SCRIPT = Path(__file__).parent / "engines" / "data_parallel.py"

PROMPTS, SAMPLES, NEW_TOKENS = 4, 2, 40


@pytest.fixture(scope="module", params=[0, 4], ids=["dense", "experts"])
def outcome(request, run_engine, make_tiny_model):
    draw = random.Random(11)
    prompts = [[draw.randrange(2, 1024) for _ in range(5 + i)] for i in range(PROMPTS)]
    settings = {
        "model": str(make_tiny_model(experts=request.param)),
        "prompts": prompts * SAMPLES,
        "new_tokens": NEW_TOKENS,
    }
    return run_engine(SCRIPT, settings)


def test_each_of_two_engines_drafts_for_itself(outcome):
    assert sorted(engine["index"] for engine in outcome["engines"]) == [0, 1]
    for engine in outcome["engines"]:
        assert engine["drafts"] == 1
        assert engine["threads"]
        assert engine["emitted"] == 3 * PROMPTS * SAMPLES * NEW_TOKENS
        assert engine["accepted"] > 100


def test_no_engine_waits_for_the_other_and_all_write_the_models_text(outcome):
    expected = outcome["expected"]
    assert outcome["rounds"] == {
        "both": [expected] * 2,
        "first": [expected],
        "second": [expected],
        "again": [expected] * 2,
    }
