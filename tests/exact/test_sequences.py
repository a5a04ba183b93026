"""A whole engine that drafts emits every response with its exact probability, under every sampling parameter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm

SCRIPT = Path(__file__).parent / "engines" / "sequences.py"
PROMPT = [3, 4, 5, 2]
PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
STOP = {"stop_token_ids": [2]}
MINIMUM = {
    "min_tokens": 2,
    "stop_token_ids": [2, 3],
    "temperature": 2,
}  # vLLM counts the end token among them
CHOICES = [[2, 3, 4, 0], [2, 3, 0], [4, 5, 3, 0], [4, 2, 0], [5, 0]]
GRAMMAR = {"structured_outputs": {"choice": ["".join(f"t{i}" for i in c[:-1]) for c in CHOICES]}}
ENDS = {"ignore_eos": False}
TEXT = {"detokenize": True}

# name, drafter, vLLM's parameters, the same for the target, share of the responses
CASES: list[tuple[str, str, dict, dict, float]] = [
    ("temperature 1", "redraft", {}, {}, 8),  # at length 10^6 tokens
    ("temperature 1, at random", "at random", {}, {}, 1),
    ("temperature 1, likeliest", "likeliest", {}, {}, 1),
    ("temperature 1, unlikeliest", "unlikeliest", {}, {}, 1),
    ("temperature 1, nothing", "nothing", {}, {}, 1),
    ("greedy, always right", "likeliest", {"temperature": 0}, {"temperature": 0}, 0.1),
    ("greedy, always wrong", "unlikeliest", {"temperature": 0}, {"temperature": 0}, 0.1),
    ("groups of 8", "redraft", {"n": 8}, {}, 1),
    *[
        (f"{name}, {drafter}", drafter, parameters, parameters, 0.5)
        for name, parameters in {
            "top_k and temperature": {"top_k": 3, "temperature": 0.7},
            "top_p": {"top_p": 0.8},
            "penalties": PENALTIES,
            "allowed tokens": {"allowed_token_ids": [0, 2, 3, 5]},
            "stop token": STOP,
        }.items()
        for drafter in ("redraft", "at random")
    ],
    ("seeds", "redraft", {"seeds": True}, {}, 1),
    ("end token", "redraft", ENDS, {"stop_token_ids": [0]}, 0.5),
    ("short", "at random", {"max_tokens": 2}, {}, 0.5),
    ("stop string, redraft", "redraft", {**TEXT, "stop": ["t2"]}, STOP, 0.5),
    ("stop string, at random", "at random", {**TEXT, "stop": ["t2"]}, STOP, 0.5),
    ("bad words", "at random", {**TEXT, "bad_words": ["t1", "t2 t3"]}, {"bad_words": [[1], [2, 3]]}, 0.5),
    ("grammar, redraft", "redraft", {**GRAMMAR, **ENDS}, {"choices": CHOICES, "stop_token_ids": [0]}, 0.5),
    (
        "grammar, at random",
        "at random",
        {**GRAMMAR, **ENDS},
        {"choices": CHOICES, "stop_token_ids": [0]},
        0.5,
    ),
    ("min_tokens, redraft", "redraft", {**MINIMUM, **ENDS}, {**MINIMUM, "stop_token_ids": [0, 2, 3]}, 2),
    (
        "logprobs",
        "redraft",
        {"logprobs": 3, "prompt_logprobs": 1, "temperature": 0.8},
        {"temperature": 0.8},
        0.5,
    ),
    ("logprobs and stop string", "at random", {**TEXT, "stop": ["t2"], "logprobs": 1}, STOP, 0.5),
]
REFUSED = {"min_p": {"min_p": 0.1}, "logit_bias": {"logit_bias": {3: 1.0}}}


PIECES = 3 if "EXACT_DRAWS" in os.environ else 1
"""At length several engines, each with a share of the cases, which can run side by side: `pytest -k piece0`."""


@pytest.fixture(scope="module", params=range(PIECES), ids="piece{}".format)
def outcome(request, run_engine, make_tiny_model, draws):
    model = make_tiny_model(vocab_size=6, layers=1, hidden=32, sharpness=1.5, memory=1.0)
    cases = [list(case) for case in CASES[request.param :: PIECES]]
    settings = {
        "model": str(model),
        "prompt": PROMPT,
        "requests": max(256, draws // 32),
        "cases": cases,
        "refused": REFUSED,
    }
    result = run_engine(SCRIPT, settings, timeout=7200)
    assert list(result["cases"]) == [case[0] for case in cases]
    return result


@pytest.fixture(scope="module")
def cases(outcome):
    return outcome["cases"]


def test_no_response_was_impossible_and_none_got_lost(cases):
    for name, case in cases.items():
        assert case["strange"] == [], name
        assert case["draws"] == case["asked"], name


def test_every_case_was_verified_under_drafts(cases):
    for name, case in cases.items():
        if "nothing" in name:
            assert case["drafted"] == case["accepted"] == 0
        elif "always wrong" in name:
            assert case["accepted"] == 0 < case["drafted"]
        else:
            assert case["drafted"] > 0, name
    accepted = {name for name in cases if cases[name]["accepted"] > 0}
    for drafter in ("redraft", "at random", "likeliest", "unlikeliest"):
        of_this = {case[0] for case in CASES if case[1] == drafter and case[0] in cases}
        assert len(accepted & of_this) >= len(of_this) / 2, drafter
    if right := cases.get("greedy, always right"):
        # The first token comes from prefill, all others from drafts.
        assert right["accepted"] == right["draws"] * 3


def test_total_variation_is_what_plain_sampling_of_this_size_has(cases):
    for name, case in cases.items():
        assert case["tv"] <= case["noise"] + 5 * case["noise_deviation"] + 1e-9, (name, case)


def test_the_distribution_passes_a_chi_square_test(cases):
    for name in cases:
        assert cases[name]["p_value"] > 1e-4, (name, cases[name])
        assert cases[name]["length_p_value"] > 1e-4, (name, cases[name])


def test_log_probabilities_are_the_models_own(cases):
    for name, case in cases.items():
        assert case["worst_logprob"] < 1e-3, name
        assert (case["worst_logprob"] > 0) == ("logprobs" in name), name


def test_vllm_refuses_what_it_cannot_verify(outcome):
    for name, message in outcome["refused"].items():
        assert "not yet supported with speculative decoding" in message, name
