"""What a model with sampling parameters should emit: exact probabilities of all texts, without vLLM.

Written from the documentation of the parameters, in float64, one context at a time: slow and plain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Logits = Callable[[tuple[int, ...]], Float64Array]
"""The next token's logits after some response tokens."""


@dataclass(frozen=True)
class Sampling:
    """Parameters by vLLM's names; the defaults change nothing."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    allowed_token_ids: Sequence[int] = ()
    bad_words: Sequence[Sequence[int]] = ()
    """Token sequences that must not occur in the response."""
    min_tokens: int = 0
    stop_token_ids: Sequence[int] = ()
    choices: Sequence[Sequence[int]] = ()
    """The only responses that a grammar allows, each ending with a stop token; none: no grammar."""
    follows: Sequence[Sequence[int]] = ()
    """By the last token, and at the end of the list for an empty response: which tokens a grammar allows next."""
    stop_sequences: Sequence[Sequence[int]] = ()
    """Token sequences that end the response, as stop strings do."""


def next_probabilities(
    logits: Float64Array, sampling: Sampling, prompt: Sequence[int], response: Sequence[int]
) -> Float64Array:
    """Return the next token's probabilities, float64, shape (vocab_size,).

    Args:
        logits: float64, shape (vocab_size,), after `prompt` and `response`.
        sampling: what constrains them.
        prompt: counts for the repetition penalty only.
        response: what was emitted so far.
    """
    logits = np.array(logits, np.float64)
    size = len(logits)
    if sampling.allowed_token_ids:
        logits[[i for i in range(size) if i not in sampling.allowed_token_ids]] = -np.inf
    if sampling.choices:
        begun = [choice for choice in sampling.choices if list(choice[: len(response)]) == list(response)]
        following = {choice[len(response)] for choice in begun if len(choice) > len(response)}
        logits[[i for i in range(size) if i not in following]] = -np.inf
    if sampling.follows:
        allowed = sampling.follows[response[-1] if len(response) else -1]
        logits[[i for i in range(size) if i not in allowed]] = -np.inf
    for word in sampling.bad_words:
        begin = len(response) - (len(word) - 1)
        if begin >= 0 and list(response[begin:]) == list(word[:-1]):
            logits[word[-1]] = -np.inf
    if len(response) < sampling.min_tokens:
        logits[list(sampling.stop_token_ids)] = -np.inf
    counts = np.bincount(np.asarray(response, int), minlength=size)
    seen = (counts > 0) | (np.bincount(np.asarray(prompt, int), minlength=size)[:size] > 0)
    factor = sampling.repetition_penalty
    logits = np.where(seen, np.where(logits > 0, logits / factor, logits * factor), logits)
    logits -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
    if sampling.temperature == 0:
        return np.eye(size)[np.argmax(logits)]
    logits /= sampling.temperature
    probabilities = np.exp(logits - logits.max())
    if sampling.top_k:
        probabilities[np.argsort(probabilities)[: -sampling.top_k]] = 0
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        # The fewest likeliest tokens whose probabilities reach top_p.
        order = np.argsort(-probabilities)
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= sampling.top_p]] = 0
        probabilities /= probabilities.sum()
    return probabilities


def all_texts(
    logits: Logits, sampling: Sampling, prompt: Sequence[int], vocab_size: int, length: int
) -> dict[tuple[int, ...], float]:
    """Return the probability of every response of at most `length` tokens; shorter ones end with a stop token.

    Responses of probability 0 are included, so that it is noticed when one is seen.
    """
    texts = {(): 1.0}
    for _ in range(length):
        longer: dict[tuple[int, ...], float] = {}
        for text, probability in texts.items():
            if text and text[-1] in sampling.stop_token_ids:
                longer[text] = probability
                continue
            following = next_probabilities(logits(text), sampling, prompt, text) if probability else None
            for token in range(vocab_size):
                longer[(*text, token)] = (
                    probability * float(following[token]) if following is not None else 0.0
                )
        texts = longer
    return texts


def cells(texts: dict[tuple[int, ...], float]) -> tuple[list[tuple[int, ...]], Float64Array]:
    """Return the texts in order and their probabilities, float64, shape (len(texts),), summing to 1."""
    ordered = sorted(texts)
    probabilities = np.array([texts[text] for text in ordered])
    assert abs(probabilities.sum() - 1) < 1e-9, "the target's probabilities do not sum to 1"
    return ordered, probabilities / probabilities.sum()
