"""With no server answering, a prompt beyond the most that are remembered raised KeyError and ended all drafting."""

from __future__ import annotations

import numpy as np
import pytest

from redraft.client import held_indexes
from redraft.client.held_indexes import HeldIndexes


def test_a_prompt_beyond_the_table_is_served_and_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_indexes, "_MAX_ENTRIES", 4)
    held = HeldIndexes(1 << 20)
    for number in range(8):
        entry = held.entry(bytes([number]), np.array([number], np.int32))
        entry.wanted = True
    assert [entry.key for entry in held] == [bytes([number]) for number in range(4)]
    held.entry(b"\0", np.array([0], np.int32)).wanted = False
    held.entry(b"\7", np.array([7], np.int32))
    assert [entry.key for entry in held] == [b"\1", b"\2", b"\3", b"\7"]
