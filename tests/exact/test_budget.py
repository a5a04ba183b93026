"""An engine that drafts what pays, as measured while it runs, emits texts with the model's own probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

SCRIPT = Path(__file__).parent / "engines" / "budget.py"


@pytest.fixture(scope="module")
def outcomes(run_engine, make_tiny_model):
    settings = {
        "budget": "auto",
        "model": str(make_tiny_model(vocab_size=32, layers=1, sharpness=1.0, memory=1.0)),
        "prompts": [[5, 6, 7, 8], [9, 10, 11]],
        "temperatures": [1.0, 0.7],
        "requests": 5120,
        "rounds": [4, 1],
    }
    return run_engine(SCRIPT, settings)


def test_drafts_were_verified_and_both_accepted_and_rejected(outcomes):
    counts = outcomes[0]["stats"]
    drafted = {source: sum(tokens) for source, tokens in counts["drafted"].items()}
    accepted = {source: sum(tokens) for source, tokens in counts["accepted"].items()}
    # How often drafts pay is up to the machine.
    assert 0 < sum(accepted.values()) < sum(drafted.values())


def test_texts_have_the_models_probabilities(outcomes):
    assert [outcome["texts"] for outcome in outcomes] == [20_480, 5_120]
    for outcome in outcomes:
        assert outcome["cells"] >= 50
        assert outcome["p_value"] > 0.001
