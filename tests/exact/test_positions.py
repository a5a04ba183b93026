"""The pooled test over positions passes what is exact and notices what is not, with a sixteenth of 10^6 draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.vllm

DRAWS, VOCAB_SIZE = 65_536, 8


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "engines"))
    from positions import judge_positions

    return judge_positions


@pytest.fixture
def contexts():
    """Every position's own distribution, float64 (DRAWS, VOCAB_SIZE), its last token, and a draft for it."""
    random = np.random.default_rng(1)
    table = random.normal(size=(VOCAB_SIZE, VOCAB_SIZE)) * 1.5
    classes = random.integers(VOCAB_SIZE, size=DRAWS)
    logits = table[classes] + random.normal(size=(DRAWS, VOCAB_SIZE)) * 0.5
    logits[:, 0] = np.where(classes == 3, -np.inf, logits[:, 0])
    return softmax(logits), classes, table.argmax(1)[classes]


def softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)


def draw(distributions: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return (distributions.cumsum(1) < random.random((len(distributions), 1))).sum(1).clip(max=VOCAB_SIZE - 1)


def verify(
    distributions: np.ndarray, drafts: np.ndarray, factor: float = 1.0, again: bool = False
) -> np.ndarray:
    """Accept each draft by the rule of `doc/exactness.md`, or else sample a token: any with `again`."""
    random, rows = np.random.default_rng(2), np.arange(len(drafts))
    accepted = random.random(len(drafts)) * factor <= distributions[rows, drafts]
    others = distributions.copy()
    if not again:
        others[rows, drafts] = 0
    return np.where(accepted, drafts, draw(others / others.sum(1, keepdims=True), random))


def test_tokens_drawn_by_the_rule_pass(judge, contexts):
    distributions, classes, drafts = contexts
    judged = judge(verify(distributions, drafts), distributions, classes)
    assert judged["tv"] < judged["noise"] + 5 * judged["noise_deviation"]
    assert judged["p_value"] > 1e-4
    assert (judged["impossible"], judged["draws"]) == (0, DRAWS)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, drafts: verify(p, drafts, factor=0.9),
        lambda p, drafts: verify(p, drafts, again=True),
        lambda p, drafts: verify(softmax(np.log(np.maximum(p, 1e-300)) / 1.2), drafts),
    ],
    ids=["accepted too often", "sampled again after rejection", "verified at another temperature"],
)
def test_tokens_drawn_by_a_wrong_rule_fail(judge, contexts, wrong):
    distributions, classes, drafts = contexts
    judged = judge(wrong(distributions, drafts), distributions, classes)
    assert judged["tv"] > judged["noise"] + 5 * judged["noise_deviation"]
    assert judged["p_value"] < 1e-12


def test_a_single_impossible_token_fails(judge, contexts):
    distributions, classes, drafts = contexts
    tokens = verify(distributions, drafts)
    tokens[np.flatnonzero(classes == 3)[0]] = 0
    judged = judge(tokens, distributions, classes)
    assert (judged["impossible"], judged["p_value"]) == (1, 0.0)
