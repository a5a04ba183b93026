"""Long texts, judged token by token: every position is a draw from a distribution that its context makes known.

Given its context, a token is independent of all that was emitted before (`doc/exactness.md`), so positions of many
texts may be pooled: what is summed is, position by position, an outcome minus its own probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from target import Sampling, next_probabilities

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
REPLICATES = 32
"""Plain samples that tell what total variation noise alone makes."""
TIE = 1e-3
"""Contexts in which what top_k, top_p or greedy sampling keeps hangs on a difference of this share of a probability are
left out: in float32 it may go either way (`doc/exactness.md`, floating point). The context decides, not the draw."""


def teacher_forced(model: Any, prompt: Sequence[int], texts: Int64Array) -> Float64Array:
    """Return the next token's logits at every position of every text.

    Args:
        model: transformers' causal model, float32.
        prompt: before every text.
        texts: int64, shape (texts, length); what is behind a text's end may be any token.

    Returns:
        float64, shape (texts, length, vocab_size).
    """
    parts = []
    with torch.no_grad():
        for part in torch.from_numpy(texts).split(2048):
            rows = torch.cat([torch.tensor([prompt]).expand(len(part), -1), part[:, :-1]], 1)
            parts.append(model(rows).logits[:, len(prompt) - 1 :].double())
    return torch.cat(parts).numpy()


def probabilities(
    logits: Float64Array, sampling: Sampling, prompt: Sequence[int], texts: Int64Array
) -> tuple[Float64Array, npt.NDArray[np.bool_]]:
    """Return every position's distribution: `target.next_probabilities`, for all of them at once.

    Args:
        logits: float64, shape (texts, length, vocab_size), of `teacher_forced`.
        sampling: `choices` must be empty.
        prompt: before every text.
        texts: int64, shape (texts, length).

    Returns:
        float64 like `logits`; bool (texts, length): whether the context is decided (`TIE`).
    """
    assert not sampling.choices
    number, length, size = logits.shape
    logits, place = logits.copy(), np.arange(length)
    if sampling.allowed_token_ids:
        logits[..., [i for i in range(size) if i not in sampling.allowed_token_ids]] = -np.inf
    if sampling.follows:
        allowed = np.zeros((size + 1, size), bool)
        for last, tokens in enumerate(sampling.follows):
            allowed[last, list(tokens)] = True
        last = np.concatenate([np.full((number, 1), size), texts[:, :-1]], 1)
        logits[~allowed[last]] = -np.inf
    for word in sampling.bad_words:
        *begin, end = word
        matched = np.broadcast_to(place >= len(begin), texts.shape).copy()
        for i, token in enumerate(begin):
            back = len(begin) - i
            matched[:, back:] &= texts[:, : length - back] == token
        logits[..., end][matched] = -np.inf
    if sampling.min_tokens:
        for token in sampling.stop_token_ids:
            logits[:, place < sampling.min_tokens, token] = -np.inf
    if sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1:
        counts = np.eye(size)[texts].cumsum(1)
        counts = np.concatenate([np.zeros_like(counts[:, :1]), counts[:, :-1]], 1)
        seen = (counts > 0) | (np.bincount(np.asarray(prompt, int), minlength=size) > 0)
        factor = sampling.repetition_penalty
        logits = np.where(seen, np.where(logits > 0, logits / factor, logits * factor), logits)
        logits -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
    temperature = sampling.temperature or 1.0
    result = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    result /= result.sum(-1, keepdims=True)
    decided = np.ones((number, length), bool)
    keep = 1 if sampling.temperature == 0 else sampling.top_k
    if 0 < keep < size:
        ordered = -np.sort(-result, -1)
        least, next_best = ordered[..., keep - 1 : keep], ordered[..., keep]
        decided &= next_best < (1 - TIE) * least[..., 0]
        result[result < least] = 0
        result /= result.sum(-1, keepdims=True)
    if sampling.temperature and sampling.top_p < 1:
        order = np.argsort(-result, -1)
        ordered = np.take_along_axis(result, order, -1)
        before = ordered.cumsum(-1) - ordered
        decided &= (np.abs(before - sampling.top_p) > 1e-4).all(-1)
        # Of two tokens as good as tied at the border either may be the one that is kept.
        least = np.where(before < sampling.top_p, ordered, 2.0).min(-1, keepdims=True)
        decided &= (np.abs(result - least) < TIE * least).sum(-1) == 1
        result[result < least] = 0
        result /= result.sum(-1, keepdims=True)
    return result, decided


def check(
    found: Float64Array, logits: Float64Array, sampling: Sampling, prompt: Sequence[int], texts: Int64Array
) -> None:
    """See that `found`, of `probabilities`, is what `next_probabilities` says, text by text."""
    for text, rows, expected in zip(texts.tolist(), found, logits, strict=True):
        for i in range(len(text)):
            one = next_probabilities(expected[i], sampling, prompt, text[:i])
            assert np.abs(one - rows[i]).max() < 1e-9, (sampling, text[:i])


def end_of(text: Sequence[int], sampling: Sampling, longest: int) -> int:
    """Return how long the response is that begins with `text`, -1 when it is not over there."""
    for i in range(1, min(len(text), longest) + 1):
        stops = i >= sampling.min_tokens and text[i - 1] in sampling.stop_token_ids
        if stops or any(list(text[:i][-len(word) :]) == list(word) for word in sampling.stop_sequences):
            return i
    return longest if len(text) >= longest else -1


def judge_positions(tokens: Int64Array, distributions: Float64Array, classes: Int64Array) -> dict[str, float]:
    """Compare tokens with the distributions that each was to be drawn from.

    Args:
        tokens: int64, shape (draws,).
        distributions: float64, shape (draws, vocab_size), each position's own.
        classes: int64, shape (draws,), from 0: known before the draw. Outcomes are counted by class and token.

    Returns:
        As `goodness.judge`. `tv` is half the sum over cells (class and token) of how far the cell's share of all draws
        is from the mean probability; `noise` the same of tokens drawn anew from each position's distribution.
        `p_value`: of the quadratic form in counts minus expectations with the inverse of their exact covariance, the
        sum over positions of diag(p) - p p^T, by class; which is Pearson's chi-square where a class's distributions are
        all the same. Cells of an expectation below 5 are taken together in their class, classes below 50 with each
        other. `impossible`: tokens of probability 0.
    """
    draws, size = distributions.shape
    sizes = np.bincount(classes)
    small = sizes < 50
    classes = np.where(small[classes], 0, np.cumsum(~small)[classes])
    number = int(classes.max()) + 1

    def count(drawn: Int64Array) -> Float64Array:
        return (
            np.bincount(classes * size + drawn, minlength=number * size).reshape(number, size).astype(float)
        )

    expected = np.zeros((number, size))
    observed = count(tokens)
    statistic, degrees = 0.0, 0
    for one in range(number):
        rows = distributions[classes == one]
        expected[one] = rows.sum(0)
        common = expected[one] >= 5
        if not len(rows) or not common.any():
            continue
        merge = np.concatenate([np.eye(size)[common], ~common[None]])
        merge = merge[merge @ expected[one] >= 5].astype(float)
        spread = np.diag(expected[one]) - rows.T @ rows
        difference = merge @ (observed[one] - expected[one])
        values, vectors = np.linalg.eigh(merge @ spread @ merge.T)
        # The smallest is 0: the counts of a class add up.
        sure = values > 1e-9 * max(values.max(), 1.0)
        statistic += float((((vectors.T @ difference)[sure]) ** 2 / values[sure]).sum())
        degrees += int(sure.sum())
    impossible = int((distributions[np.arange(draws), tokens] == 0).sum())
    half = [torch.tensor(value / 2, dtype=torch.float64) for value in (degrees, statistic)]
    p_value = float(torch.special.gammaincc(*half)) if degrees else 1.0

    generator = np.random.default_rng(12345)
    sums = distributions.cumsum(1, dtype=np.float32)
    distances = []
    for _ in range(REPLICATES):
        uniform = generator.random((draws, 1), dtype=np.float32) * sums[:, -1:]
        drawn = np.minimum((sums < uniform).sum(1), size - 1)
        distances.append(np.abs(count(drawn) - expected).sum() / 2 / draws)
    return {
        "draws": draws,
        "tv": float(np.abs(observed - expected).sum() / 2 / draws),
        "noise": float(np.mean(distances)),
        "noise_deviation": float(np.std(distances)),
        "p_value": 0.0 if impossible else p_value,
        "impossible": impossible,
        "cells": degrees,
    }
