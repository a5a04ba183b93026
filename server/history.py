"""The history of rollouts, as the rest of the server sees it: records, and the interface of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from redraft.errors import FailedPrecondition
from redraft.vocabulary import Vocabulary

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run that the store knows."""

    run_id: int
    name: str
    vocabulary: Vocabulary

    def check_vocabulary(self, other: Vocabulary) -> None:
        """Raise FailedPrecondition when `other`, the vocabulary of somebody who uses the run, contradicts its own."""
        part = self.vocabulary.contradicts(other)
        if part:
            raise FailedPrecondition(
                f"run.vocabulary.{part}: run {self.name!r} has {getattr(self.vocabulary, part)!r}, the sender "
                f"{getattr(other, part)!r}; use the same tokenizer or another run name"
            )


@dataclass(frozen=True, slots=True)
class ResponseRecord:
    """One response of a group."""

    sample: int
    token_ids: Int32Array
    """int32, shape (n,), n >= 1."""
    reward: float | None = None
    context: npt.NDArray[np.bool_] | None = None
    """bool, shape (n,): True where the policy did not write the token; None: it wrote all."""
    versions: tuple[int, int] | None = None
    """Weights that wrote the first and the last token; None: not known."""

    def same(self, other: ResponseRecord) -> bool:
        """Return whether the two hold the same, samples aside."""
        return (
            self.reward == other.reward
            and self.versions == other.versions
            and np.array_equal(self.token_ids, other.token_ids)
            and (self.context is None) == (other.context is None)
            and (self.context is None or other.context is None or np.array_equal(self.context, other.context))
        )


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """Responses to one prompt from one step."""

    key: bytes
    prompt_token_ids: Int32Array
    """int32, shape (n,), n >= 1; empty when read back by prompt."""
    epoch: int
    step: int
    validation: bool
    group_id: str
    responses: Sequence[ResponseRecord]


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of one group's responses."""

    stored: int = 0
    replaced: int = 0
    unchanged: int = 0
    error: Exception | None = None
    """Why none of them was stored (a `redraft.errors` class), or None."""


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """A prompt that the store knows."""

    prompt_id: int
    revision: int
    """Grows with every change of the prompt's history, also over restarts; > 0."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part of a run to forget; exactly one is set."""

    everything: bool = False
    from_epoch: int | None = None
    from_step: int | None = None
    before_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class EpochSummary:
    """What the store holds of one epoch of a run."""

    epoch: int
    responses: int
    tokens: int
    rewarded: int
    """Training responses that carry a reward."""
    reward_sum: float


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What the store holds of one run."""

    prompts: int = 0
    epochs: list[EpochSummary] = field(default_factory=list)

    @property
    def responses(self) -> int:
        """Stored responses."""
        return sum(epoch.responses for epoch in self.epochs)

    @property
    def tokens(self) -> int:
        """Their tokens."""
        return sum(epoch.tokens for epoch in self.epochs)


class History(Protocol):
    """A durable store of rollouts. All methods may be called from any thread.

    Raises (all methods):
        ResourceExhausted: the disk is full.
        DataLoss: the store's file is damaged beyond reading.
        Unavailable: the store is closed or the disk fails.
    """

    @property
    def damaged(self) -> int:
        """Records found damaged, and skipped, since the store was opened."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        ...

    def run(self, name: str) -> RunRecord | None:
        """Return the run of that name."""
        ...

    def runs(self) -> list[RunRecord]:
        """Return all runs, by name."""
        ...

    def open_run(self, name: str, vocabulary: Vocabulary) -> RunRecord:
        """Return the run of that name, creating it or adding to what is known of its vocabulary.

        Raises:
            FailedPrecondition: the run's vocabulary is another one.
        """
        ...

    def append(self, run: RunRecord, groups: Sequence[GroupRecord]) -> Future[list[Appended]]:
        """Store groups; the future's result, one item a group, is there once they are durable."""
        ...

    def prompt(self, run: RunRecord, key: bytes, token_ids: Int32Array) -> PromptRecord | None:
        """Return the prompt with that key and exactly these tokens."""
        ...

    def groups(self, prompt: PromptRecord) -> Iterator[GroupRecord]:
        """Yield a prompt's groups, newest (epoch, then step) first, skipping damaged ones."""
        ...

    def export(self, run: RunRecord) -> Iterator[GroupRecord]:
        """Yield all groups of a run with their prompts, oldest first for each prompt, skipping damaged ones."""
        ...

    def forget(self, run: RunRecord, scope: Scope) -> tuple[int, int]:
        """Remove part of a run; return the numbers of responses and tokens removed, once that is durable."""
        ...

    def summary(self, run: RunRecord) -> RunSummary:
        """Return what the store holds of a run."""
        ...

    def close(self) -> None:
        """Finish what was accepted and close; later calls raise Unavailable."""
        ...
