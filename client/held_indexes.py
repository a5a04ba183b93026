"""The prompts that a DraftSource was asked for, and the indexes that it holds of them, within a budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from redraft._core import FrozenIndex

_MAX_ENTRIES = 65_536
"""Prompts remembered at most, those without history included."""

Int32Array = npt.NDArray[np.int32]


@dataclass(slots=True, eq=False)
class Entry:
    """A prompt that somebody asked for."""

    token_ids: Int32Array
    key: bytes
    index: FrozenIndex | None = None
    nbytes: int = 0
    revision: int = 0
    """Revision held, or the one whose blob was refused; 0 = none."""
    address: str = ""
    """The server that sent it."""
    wanted: bool = False
    """Whether an answer is waited for."""
    asked: float = float("-inf")
    """When the last answer came, by the monotonic clock."""


class HeldIndexes:
    """Entries by prompt, the least recently used dropped first. Not thread-safe: the owner's lock guards it.

    Args:
        memory_bytes: indexes held at most, in bytes.
    """

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.nbytes = 0
        """Memory of the indexes held, in bytes."""
        self.arrivals = 0
        """Grows whenever an index arrives or is replaced."""
        self.evicted = 0
        """Indexes dropped to stay within the budget."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def entry(self, key: bytes, token_ids: Int32Array) -> Entry:
        """Return the prompt's entry, made if need be, as the one used last."""
        entry = self._entries.get(key)
        if entry is None or not np.array_equal(entry.token_ids, token_ids):
            if entry is not None:
                self.nbytes -= entry.nbytes
            entry = self._entries[key] = Entry(token_ids.copy(), key)
            self._entries.move_to_end(key)
            self.evict()  # gives up the new one only where all others are waited for; the caller has it all the same
        else:
            self._entries.move_to_end(key)
        return entry

    def find(self, key: bytes, token_ids: Int32Array) -> FrozenIndex | None:
        """Return the index held of a prompt."""
        entry = self._entries.get(key)
        if entry is None or entry.index is None or not np.array_equal(entry.token_ids, token_ids):
            return None
        self._entries.move_to_end(key)
        return entry.index

    def replace(self, entry: Entry, index: FrozenIndex | None, nbytes: int) -> None:
        """Hold another index of an entry, or (None) none."""
        if self._entries.get(entry.key) is not entry:
            return  # another prompt took its key meanwhile
        self.nbytes += nbytes - entry.nbytes
        entry.index, entry.nbytes = index, nbytes
        self.arrivals += 1

    def evict(self) -> None:
        """Drop what was not used for longest until the rest fits."""
        for key in list(self._entries) if self._is_full() else ():
            if not self._is_full():
                return
            entry = self._entries[key]
            if entry.index is not None:
                self.evicted += 1
                self.nbytes -= entry.nbytes
            if not entry.wanted:
                del self._entries[key]
            else:
                entry.index, entry.nbytes, entry.revision = None, 0, 0

    def _is_full(self) -> bool:
        return self.nbytes > self._memory_bytes or len(self._entries) > _MAX_ENTRIES
