"""Responses that ended, kept within bounds and found again."""

from __future__ import annotations

import numpy as np
import pytest

from redraft.recipe.vllm import responses
from redraft.recipe.vllm.responses import EndedResponses
from redraft.rollout import CONTEXT_ONLY


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


def context(*token_ids: int) -> list[int]:
    return [token_id + CONTEXT_ONLY for token_id in token_ids]


@pytest.mark.parametrize(
    ("prompt", "origin", "text"),
    [
        ((1, 2, 7, 8), [1, 2], [7, 8]),  # the longest wins over (1,) and its response (2, 7, 8)
        ((1, 2, 7), [1, 2], [7]),
        ((1, 2, 7, 8, 9), [1, 2], [7, 8, *context(9)]),  # a further turn
        ((1, 2, 7, 9), None, []),  # a text that none of the responses begins
        ((1, 2, 3), None, []),
        ((1, 2), [1], [2]),
        ((1,), None, []),
        ((4, 4, 4), None, []),
    ],
)
def test_a_prompt_that_goes_on_leads_to_the_one_that_it_goes_on_from(prompt, origin, text):
    ended = EndedResponses(100)
    ended.add(ids(1, 2), ids(7, 8), 0.0)
    ended.add(ids(1), ids(2, 7, 8), 0.0)
    found = ended.origin(ids(*prompt))
    if origin is None:
        assert found is None
    else:
        assert (found.prompt.tolist(), found.text.tolist()) == (origin, text)


def test_every_turn_of_a_conversation_is_known_by_the_turns_before_it():
    ended = EndedResponses(100)
    prompt, first, tool, second, user = ids(1, 2), ids(20, 21, 0), ids(30, 31), ids(22, 0), ids(40)
    ended.add(prompt, first, 0.0)
    ended.add(prompt, ids(20, 29, 0), 0.0)  # a sibling's
    found = ended.origin(np.concatenate([prompt, first, tool]))
    assert found.text.tolist() == [20, 21, 0, *context(30, 31)]
    ended.add(prompt, np.concatenate([found.text, second]), 1.0)
    assert len(ended.of(prompt)) == 2  # the trajectory's later turn stands for its earlier one
    found = ended.origin(np.concatenate([prompt, first, tool, second, user]))
    assert found.text.tolist() == [20, 21, 0, *context(30, 31), 22, 0, *context(40)]
    # A sibling with the same first turn and another answer of the tool:
    found = ended.origin(np.concatenate([prompt, first, ids(30, 33)]))
    assert found.text.tolist() == [20, 21, 0, *context(30, 33)]


def test_a_chat_template_may_drop_the_end_token():
    ended = EndedResponses(100)
    ended.add(ids(1), ids(20, 21, 22, 0), 0.0)
    assert ended.origin(ids(1, 20, 21, 22, 30)).text.tolist() == [20, 21, 22, *context(30)]
    ended.add(ids(5), ids(20, 0), 0.0)
    assert ended.origin(ids(5, 20, 30)) is None  # too little to go by
