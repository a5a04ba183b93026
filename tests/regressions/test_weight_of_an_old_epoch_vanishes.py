"""A prompt with very old epochs had no index at all: their weight became zero, which the index refuses."""

from __future__ import annotations

import numpy as np

from redraft import FrozenIndex
from redraft.server.config import WindowConfig
from redraft.server.history import GroupRecord, ResponseRecord
from redraft.server.window import choose


def test_responses_of_hundreds_of_epochs_ago_still_make_an_index():
    def group(epoch: int) -> GroupRecord:
        response = ResponseRecord(0, np.array([epoch, 1, 2], dtype=np.int32))
        return GroupRecord(b"", np.empty(0, np.int32), epoch, 0, False, "", [response])

    chosen = choose([group(500), group(499), group(0)], WindowConfig(epochs=0, age_decay=0.1))
    assert chosen.responses == 3
    assert (chosen.weights > 0).all()
    index = FrozenIndex.build(chosen.token_ids, chosen.offsets, chosen.weights)
    assert index.count(np.array([0, 1], dtype=np.int32)) == 1
