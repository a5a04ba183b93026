"""A whole engine that drafts emits every token of long responses with its exact probability given what is before it,
under every sampling parameter and under drafts of every kind: 10^6 tokens a case at length."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

SCRIPT = Path(__file__).parent / "engines" / "continuations.py"
VOCAB_SIZE = 16
PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.4, "repetition_penalty": 1.3}
TOP_K = {"top_k": 3, "temperature": 1.3}
TOP_P = {"top_p": 0.8, "temperature": 1.5}
ALLOWED = {"allowed_token_ids": [i for i in range(VOCAB_SIZE) if i != 1]}
STOP_TOKEN = {"stop_token_ids": [5, 2]}
TEXT = {"detokenize": True}
STOP_STRINGS = {**TEXT, "stop": ["t5", "t3 t14"], "skip_special_tokens": False}
STOPPED = {"stop_token_ids": [5], "stop_sequences": [[3, 14]]}
FOLLOWS = [{2: [3, 4], 6: [7], 7: [8, 9]}.get(last, [2, 5, 6]) for last in range(VOCAB_SIZE + 1)]
GRAMMAR = {"structured_outputs": {"regex": "(t2(t3|t4)|t5|t6t7(t8|t9)){70}"}}  # longer than any response
SEEDS = {"seeds": True}

Variant = tuple[dict[str, Any], dict[str, Any]]
PLAIN: Variant = ({}, {})
MIXED: list[Variant] = [
    PLAIN,
    ({"temperature": 0}, {"temperature": 0}),
    (TOP_K, TOP_K),
    (TOP_P, TOP_P),
    (PENALTIES, PENALTIES),
    (SEEDS, {}),
    ({**TEXT, "bad_words": ["t3", "t8 t6"]}, {"bad_words": [[3], [8, 6]]}),
    (ALLOWED, ALLOWED),
    (STOP_STRINGS, STOPPED),
    ({**GRAMMAR, "temperature": 1.2}, {"follows": FOLLOWS, "temperature": 1.2}),
    ({"logprobs": 1}, {}),
]
"""Side by side in every batch: vLLM takes other paths where requests differ."""

# name, drafter, variants, share of the draws
CASES: list[tuple[str, str, list[Variant], float]] = [
    ("temperature 0.8", "redraft", [({"temperature": 0.8}, {"temperature": 0.8})], 1),
    ("temperature 1.5", "at random", [({"temperature": 1.5}, {"temperature": 1.5})], 1),
    ("likeliest", "likeliest", [PLAIN], 1),
    ("always wrong", "forbidden", [(ALLOWED, ALLOWED)], 1),
    ("longer than allowed", "longer than allowed", [PLAIN], 1),
    ("beyond the vocabulary", "beyond the vocabulary", [PLAIN], 1),
    ("groups of 8", "redraft", [({"n": 8}, {})], 1),
    ("top_k", "redraft", [(TOP_K, TOP_K)], 1),
    ("top_p", "redraft", [(TOP_P, TOP_P)], 1),
    ("penalties", "redraft", [(PENALTIES, PENALTIES)], 1),
    ("bad words", "redraft", [MIXED[6]], 1),
    ("stop tokens", "redraft", [(STOP_TOKEN, STOP_TOKEN)], 1),
    ("stop strings", "redraft", [(STOP_STRINGS, STOPPED)], 1),
    (
        "end token, max_tokens 48",
        "redraft",
        [({"ignore_eos": False, "max_tokens": 48}, {"stop_token_ids": [0]})],
        1,
    ),
    ("grammar", "redraft", [(GRAMMAR, {"follows": FOLLOWS})], 1),
    ("seeds", "redraft", [(SEEDS, {})], 1),
    ("logprobs and prompt_logprobs", "redraft", [({"logprobs": 1, "prompt_logprobs": 0}, {})], 1),
    ("mixed", "redraft", MIXED, 1),
]
KEYED: list[tuple[str, str, list[Variant], float]] = [
    ("keyed", "redraft", [(SEEDS, {})], 1),
    ("keyed, always right", "known", [(SEEDS, {})], 1),
    ("keyed, always wrong", "avoided", [({**SEEDS, **TOP_P}, TOP_P)], 1),
]
AT_LENGTH = "EXACT_DRAWS" in os.environ
PIECES = (
    {**{f"piece{i}": CASES[i::3] for i in range(3)}, "keyed": KEYED}
    if AT_LENGTH
    else {"keyed": CASES + KEYED}
)
"""At length several engines, each with a share of the cases, which can run side by side: `pytest -k piece0`. The short
form makes do with one, where requests with a seed are sampled by key."""


@pytest.fixture(scope="module", params=PIECES)
def cases(request, run_engine, make_tiny_model, draws):
    """The outcome of each case of a piece."""
    keyed, chosen = request.param == "keyed", PIECES[request.param]
    settings = {
        "model": str(make_tiny_model(vocab_size=VOCAB_SIZE, layers=1, hidden=32, sharpness=6.0, memory=1.0)),
        "draws": draws if AT_LENGTH else draws // 4,
        "cases": chosen,
    }
    outcome = run_engine(SCRIPT, settings, {"REDRAFT_KEYED_SAMPLING": "1"} if keyed else {}, timeout=7200)
    assert list(outcome) == [case[0] for case in chosen]
    for case in outcome.values():
        assert case["draws"] >= settings["draws"]
    return outcome


def test_total_variation_is_what_plain_sampling_of_this_size_has(cases):
    for name, case in cases.items():
        assert case["tv"] <= case["noise"] + 5 * case["noise_deviation"] + 1e-9, (name, case)


def test_the_distribution_passes_a_chi_square_test(cases):
    for name, case in cases.items():
        assert case["impossible"] == 0, (name, case)
        assert case["p_value"] > 1e-4, (name, case)


def test_every_response_ends_where_it_should(cases):
    for name, case in cases.items():
        assert case["misplaced"] == 0, (name, case)


def test_few_positions_were_left_out_for_hanging_on_the_last_bits(cases):
    for name, case in cases.items():
        assert case["undecided"] < 0.02 * case["draws"], (name, case)


def test_drafts_were_as_bad_or_as_good_as_meant_and_never_longer_than_allowed(cases):
    for name, case in cases.items():
        assert case["lengths"][-1] == case["longest"], name
        if name == "keyed, always wrong":  # but for logits that tie to the last bit
            assert case["accepted"] <= 1e-5 * case["verified"] > 0, name
        elif name == "keyed, always right":
            assert case["accepted"] >= (1 - 1e-3) * case["verified"] > case["draws"] / 2, name
        elif name == "always wrong":
            assert case["accepted"] == 0 < case["verified"], name
        else:
            assert 0 < case["accepted"] < case["verified"], name


def test_log_probabilities_are_the_models_own(cases):
    for name, case in cases.items():
        assert case["worst_logprob"] < 1e-3, name
        assert (case["worst_logprob"] > 0) == ("logprobs" in name or name == "mixed"), name
