"""What vLLM's samplers emit under drafts of every kind has exactly the target's distribution, over whole texts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

SCRIPT = Path(__file__).parent / "engines" / "sampler.py"
PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
TEXTS_OF_ROWS = 0.25
"""Texts of 4 tokens a draw asked for. Penalties, bad words, seeds and keys are Python objects by row, in vLLM too, and
take ten times as long: their 10^6 draws are tokens, not texts."""
DRAFTERS = ["likeliest", "unlikeliest", "one token", "ragged, at random", "ragged, likeliest"]
OF_TENSORS = [
    ("temperature 1", "no speculation", {}),
    ("temperature 1", "nothing", {}),
    ("top_k 3", "nothing", {"top_k": 3}),
    *[("temperature 1", drafter, {}) for drafter in DRAFTERS],
    ("temperature 0.6", "ragged, likeliest", {"temperature": 0.6}),
    ("temperature 1.7", "ragged, at random", {"temperature": 1.7}),
    *[("top_k 3", drafter, {"top_k": 3}) for drafter in DRAFTERS],
    *[("top_p 0.7", drafter, {"top_p": 0.7}) for drafter in DRAFTERS],
    (
        "top_k 4, top_p 0.8, temperature 0.8",
        "ragged, at random",
        {"top_k": 4, "top_p": 0.8, "temperature": 0.8},
    ),
    ("allowed tokens", "ragged, likeliest", {"allowed_token_ids": [0, 1, 3, 4]}),
    ("greedy neighbours", "ragged, likeliest", {"greedy_neighbours": True}),
]
OF_ROWS = [
    *[(f"{name} {value}", "ragged, likeliest", {name: value}) for name, value in PENALTIES.items()],
    ("all penalties", "ragged, at random", {**PENALTIES, "top_p": 0.9}),
    ("bad words", "ragged, at random", {"bad_words": [[1], [2, 3]]}),
    ("seeds", "ragged, likeliest", {"seeds": True}),
    ("keyed", "ragged, likeliest", {"keyed": True}),
    (
        "keyed, all parameters",
        "ragged, at random",
        {"keyed": True, **PENALTIES, "top_p": 0.9, "bad_words": [[1]]},
    ),
]
CASES = {"of tensors": OF_TENSORS}
if "EXACT_DRAWS" in os.environ:  # in pieces that can run side by side: pytest -k rows0
    CASES |= {f"of rows{i}": part for i, part in enumerate((OF_ROWS[:4], OF_ROWS[4:7], OF_ROWS[7:]))}
else:
    CASES["of rows"] = OF_ROWS


@pytest.fixture(scope="module", params=CASES)
def outcome(request, run_engine, draws):
    tensors = request.param == "of tensors"
    texts = draws if tensors else int(draws * TEXTS_OF_ROWS)
    settings = {
        "cases": CASES[request.param],
        "draws": texts,
        "controls": tensors,
        "seed": 1,
    }
    result = run_engine(SCRIPT, settings, timeout=7200)
    assert len(result["cases"]) == len(CASES[request.param])
    return {**result, "texts": texts}


def test_every_case_was_sampled_as_often_as_asked(outcome):
    for name, case in outcome["cases"].items():
        assert case["draws"] >= outcome["texts"], name
        assert (case["drafted"] > 0) == ("nothing" not in name and "no speculation" not in name), name
        # Short of the case in which top_k or top_p forbid every draft, some are accepted and some are not.
        if case["drafted"] and "unlikeliest" not in name:
            assert 0 < case["accepted"] < case["drafted"], name


def test_total_variation_is_what_plain_sampling_of_this_size_has(outcome):
    for name, case in outcome["cases"].items():
        assert case["tv"] < case["noise"] + 5 * case["noise_deviation"], (name, case)


def test_the_distribution_passes_a_chi_square_test(outcome):
    for name, case in outcome["cases"].items():
        assert case["p_value"] > 1e-4, (name, case)


@pytest.mark.parametrize("outcome", ["of tensors"], indirect=True)
def test_samplers_that_are_wrong_on_purpose_fail_both_tests(outcome):
    assert len(outcome["controls"]) == 3
    for name, case in outcome["controls"].items():
        assert case["tv"] > case["noise"] + 5 * case["noise_deviation"], (name, case)
        assert case["p_value"] < 1e-12, (name, case)
