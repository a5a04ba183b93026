"""Responses that ended, kept within bounds and found again."""

from __future__ import annotations

import numpy as np
import pytest

from redraft.recipe.vllm import responses
from redraft.recipe.vllm.responses import EndedResponses


def ids(*token_ids: int) -> np.ndarray:
    return np.array(token_ids, np.int32)


def texts(ended: EndedResponses, prompt: np.ndarray, **since: float) -> list[list[int]]:
    return [response.tolist() for response in ended.of(prompt, **since)]


def test_responses_are_found_by_their_prompt_only():
    ended = EndedResponses(100)
    ended.add(ids(1, 2), ids(7, 8), 0.0)
    ended.add(ids(1, 2), ids(9), 5.0)
    ended.add(ids(1), ids(6), 0.0)
    ended.add(ids(1), ids(), 0.0)
    assert texts(ended, ids(1, 2)) == [[7, 8], [9]]
    assert texts(ended, ids(1, 2), since=1.0) == [[9]]
    assert texts(ended, ids(2)) == []
    assert ended.num_tokens == 4


def test_the_prompt_whose_responses_are_oldest_goes_first():
    ended = EndedResponses(5)
    ended.add(ids(1), ids(7, 7), 0.0)
    ended.add(ids(2), ids(8, 8), 1.0)
    ended.add(ids(1), ids(9), 2.0)
    ended.add(ids(3), ids(5, 5), 3.0)
    assert (texts(ended, ids(2)), texts(ended, ids(1))) == ([], [[7, 7], [9]])
    assert (ended.num_tokens, len(ended)) == (5, 2)


def test_a_response_longer_than_the_bound_is_not_kept():
    ended = EndedResponses(3)
    ended.add(ids(1), ids(1, 2, 3, 4), 0.0)
    assert (ended.num_tokens, len(ended)) == (0, 0)


def test_a_prompt_keeps_its_newest_responses(monkeypatch):
    monkeypatch.setattr(responses, "RESPONSES_PER_PROMPT", 3)
    ended = EndedResponses(100)
    for i in range(5):
        ended.add(ids(1), ids(i, i), float(i))
    assert texts(ended, ids(1)) == [[2, 2], [3, 3], [4, 4]]
    assert ended.num_tokens == 6


def test_a_continued_response_replaces_its_beginning_and_a_repeated_one_does_not():
    ended = EndedResponses(100)
    ended.add(ids(1), ids(5, 6), 0.0)
    ended.add(ids(1), ids(5, 6, 7), 1.0)
    ended.add(ids(1), ids(5, 6, 7), 2.0)
    assert texts(ended, ids(1)) == [[5, 6, 7], [5, 6, 7]]


@pytest.mark.parametrize(
    ("prompt", "origin"),
    [
        ((1, 2, 7, 8), [1, 2]),  # the longest wins over (1,) and its response (2, 7, 8)
        ((1, 2, 7), [1, 2]),
        ((1, 2, 7, 8, 9), None),  # goes on beyond anything that was generated
        ((1, 2, 3), None),
        ((1, 2), [1]),
        ((1,), None),
        ((4, 4, 4), None),
    ],
)
def test_a_resumed_prompt_leads_to_the_one_that_it_resumes(prompt, origin):
    ended = EndedResponses(100)
    ended.add(ids(1, 2), ids(7, 8), 0.0)
    ended.add(ids(1), ids(2, 7, 8), 0.0)
    found = ended.continued_by(ids(*prompt))
    assert (None if found is None else found.tolist()) == origin
