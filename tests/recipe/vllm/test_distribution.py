"""At temperature 1 an engine that drafts emits texts with the model's own probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

SCRIPT = Path(__file__).parent / "engines" / "distribution.py"


@pytest.fixture(scope="module", params=[-1, "auto"], ids=["every draft", "drafts that pay"])
def outcomes(request, run_engine, make_tiny_model):
    settings = {
        "budget": request.param,
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
    if outcomes[0]["budget"] == -1:
        # Which source wins depends on when requests end.
        assert min(accepted["history"], accepted["live"]) > 0
    least = 5000 if outcomes[0]["budget"] == -1 else 0  # how often drafts pay is up to the machine
    assert least < sum(accepted.values()) < sum(drafted.values()) - least


def test_texts_have_the_models_probabilities(outcomes):
    assert [outcome["texts"] for outcome in outcomes] == [20_480, 5_120]
    for outcome in outcomes:
        assert outcome["cells"] >= 50
        assert outcome["p_value"] > 0.001
