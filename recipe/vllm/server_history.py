"""History from draft servers: the client's `DraftSource` seen as a `HistorySource`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from redraft._core import FrozenIndex
from redraft.client import DraftSource
from redraft.vocabulary import Vocabulary

Int32Array = npt.NDArray[np.int32]


class ServerHistory:
    """Indexes that draft servers built from what the trainer published.

    Args:
        addresses: servers as host:port.
        run: the run whose history is wanted.
        vocabulary: fingerprint of the tokenizer's vocabulary; empty: unknown.
    """

    keeps_ended = False

    def __init__(self, addresses: Sequence[str], *, run: str, vocabulary: str = "") -> None:
        known = Vocabulary(fingerprint=vocabulary) if vocabulary else None
        self._source = DraftSource(addresses, run=run, vocabulary=known)

    @property
    def arrivals(self) -> int:
        """Grows whenever an index arrives or is replaced."""
        return self._source.arrivals

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Ask these servers from now on."""
        self._source.set_addresses(addresses)

    def prefetch(self, prompt: Int32Array) -> None:
        """Ask for the prompt's index in the background."""
        self._source.prefetch(prompt)

    def get(self, prompt: Int32Array) -> FrozenIndex | None:
        """Return the newest index that has arrived for the prompt, or None."""
        return self._source.get(prompt)

    def group_ended(self, prompt: Int32Array) -> None:
        """Do nothing: the trainer publishes what it keeps."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the indexes held."""
        return self._source.held_bytes

    @property
    def num_unavailable(self) -> int:
        """Fetches that failed since no server answered."""
        return self._source.unavailable

    @property
    def fetches(self) -> tuple[int, float]:
        """Calls that brought answers, and their time in seconds."""
        return self._source.fetches

    def close(self) -> None:
        """Stop fetching."""
        self._source.close()
