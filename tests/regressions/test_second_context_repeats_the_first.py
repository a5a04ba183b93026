"""Policy "blend" took two contexts with the same single occurrence for different ones when they had come to it from
different tokens: the second context then only repeated what the first one said."""

from __future__ import annotations

import numpy as np
import pytest

from redraft import Drafter, FrozenIndex, LiveIndex

TEXT = np.arange(1, 9, dtype=np.int32)


def probability(*without: str) -> float:
    history = FrozenIndex.build(TEXT, np.array([0, len(TEXT)], np.int64))
    drafter = Drafter(policy="blend", min_survival=0.0, without=without)
    live = LiveIndex(np.zeros(0, np.int32))
    one = np.array([drafter.open(live, TEXT[:-1], history=history)], np.int32)
    drafts = drafter.step(one, np.zeros(0, np.int32), np.zeros(2, np.int32), np.array([1], np.int32))
    assert drafts.token_ids.tolist() == [8]
    return float(drafts.probabilities[0])


def test_what_occurs_once_is_said_once() -> None:
    assert probability("shared") == pytest.approx(probability("shared", "blending"))
