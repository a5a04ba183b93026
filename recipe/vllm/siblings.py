"""Siblings on other workers: their tokens reach this engine's live indexes through the draft servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from redraft._core import LiveIndex
from redraft.recipe.vllm.options import Options

Int32Array = npt.NDArray[np.int32]


class RelayCounts(Protocol):
    """What is read of how the relay fared; sums since the start."""

    @property
    def sent_tokens(self) -> int:
        """Tokens sent."""

    @property
    def received_tokens(self) -> int:
        """Tokens that came from other workers."""

    @property
    def dropped_tokens(self) -> int:
        """Tokens dropped here."""

    @property
    def missed_tokens(self) -> int:
        """Tokens dropped at a server."""

    @property
    def gaps(self) -> int:
        """How often a sibling's text went on behind tokens that never came."""

    @property
    def failures(self) -> int:
        """Streams that ended with an error, failed tries to connect included."""


@dataclass(frozen=True, slots=True)
class NothingRelayed:
    """The counts of no relay."""

    sent_tokens: int = 0
    received_tokens: int = 0
    dropped_tokens: int = 0
    missed_tokens: int = 0
    gaps: int = 0
    failures: int = 0


class Siblings(Protocol):
    """Takes note of what this engine's requests write. Every method only queues and returns at once."""

    def begin(
        self,
        sequence: int,
        prompt_token_ids: Int32Array,
        live: LiveIndex,
        token_ids: Int32Array | None = None,
    ) -> None:
        """A request starts, `token_ids` of its response known; what its siblings elsewhere write goes to `live`."""

    def advance(self, sequences: Int32Array, token_ids: Int32Array, offsets: Int32Array) -> None:
        """An engine step brought tokens, ragged by request."""

    def end(self, sequence: int) -> None:
        """A request ended; its number may be used again."""

    def stats(self) -> RelayCounts:
        """Return how the relay fared."""

    def close(self) -> None:
        """Stop the background work."""


class NoSiblings:
    """Nobody else serves this engine's groups, as far as is known."""

    def stats(self) -> RelayCounts:
        """Return zeros."""
        return NothingRelayed()

    def begin(
        self,
        sequence: int,
        prompt_token_ids: Int32Array,
        live: LiveIndex,
        token_ids: Int32Array | None = None,
    ) -> None:
        """Do nothing."""

    def advance(self, sequences: Int32Array, token_ids: Int32Array, offsets: Int32Array) -> None:
        """Do nothing."""

    def end(self, sequence: int) -> None:
        """Do nothing."""

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def make_siblings(options: Options) -> Siblings:
    """Return the relay that the options ask for."""
    if not (options.addresses and options.relay):
        return NoSiblings()
    from redraft.client import Relay
    from redraft.vocabulary import Vocabulary

    known = Vocabulary(fingerprint=options.vocabulary) if options.vocabulary else None
    return Relay(options.addresses, run=options.run, vocabulary=known)
