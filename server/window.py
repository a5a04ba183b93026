"""Which responses to a prompt are indexed, and how much each counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from redraft.rollout import mark_context
from redraft.server.config import WindowConfig
from redraft.server.history import GroupRecord, ResponseRecord


@dataclass(frozen=True, slots=True)
class Window:
    """The chosen responses, ready for `FrozenIndex.build`."""

    token_ids: npt.NDArray[np.int32]
    """int32, shape (t,): all responses' tokens."""
    offsets: npt.NDArray[np.int64]
    """int64, shape (m + 1,): response i is token_ids[offsets[i]:offsets[i + 1]]."""
    weights: npt.NDArray[np.float32]
    """float32, shape (m,), > 0."""
    newest_epoch: int

    @property
    def responses(self) -> int:
        """How many responses were chosen."""
        return len(self.weights)


def choose(groups: Iterable[GroupRecord], config: WindowConfig) -> Window:
    """Return the newest whole responses within the window; none is split.

    Ages are counted from the prompt's own newest epoch, so that a prompt's index changes only with its own history. A
    response that says which weights wrote it is as old as these: one that was resumed after an update counts as
    newer than its siblings, a fraction of an epoch for each update (`_lead`).

    Args:
        groups: one prompt's groups, newest first; read no further than needed.
        config: the window.
    """
    tokens: list[npt.NDArray[np.int32]] = []
    sources: list[tuple[GroupRecord, ResponseRecord]] = []
    total, newest = 0, -1
    for group in groups:
        newest = max(newest, group.epoch)
        age = newest - group.epoch
        if config.epochs and age >= config.epochs:
            break
        full = False
        for response in group.responses:
            if config.tokens and tokens and total + response.token_ids.size > config.tokens:
                full = True
                break
            tokens.append(mark_context(response.token_ids, response.context))
            sources.append((group, response))
            total += response.token_ids.size
        if full:
            break
    births = np.array([group.epoch for group, _ in sources]) + _lead(sources)
    ages = births.max(initial=0) - births
    weights = np.float64(config.age_decay) ** ages
    return Window(
        token_ids=np.concatenate(tokens) if tokens else np.empty(0, np.int32),
        offsets=np.cumsum([0, *(ids.size for ids in tokens)], dtype=np.int64),
        # A very old epoch must not reach weight zero, which the index refuses.
        weights=np.maximum(
            weights.astype(np.float32) * _merits([r.reward for _, r in sources], config.reward_weight),
            np.float32(1e-6),
        ),
        newest_epoch=max(newest, 0),
    )


def _lead(sources: Sequence[tuple[GroupRecord, ResponseRecord]]) -> npt.NDArray[np.float64]:
    """Return how much newer each response is than its group's epoch says, in epochs; shape (m,).

    A synchronous trainer's step s is rolled out with the weights of step s - 1, so nothing is newer. With partial
    rollouts a response is as new as the middle of its span of weights. How many steps an epoch takes is read off the
    prompt's own history; while it has one epoch only, nothing can be told, and nothing needs to decay.
    """
    epochs = np.array([group.epoch for group, _ in sources], dtype=np.float64)
    steps = np.array([group.step for group, _ in sources], dtype=np.float64)
    lead = np.zeros(len(sources))
    if not len(sources) or epochs.max() == epochs.min():
        return lead
    pace = (steps[epochs.argmax()] - steps[epochs.argmin()]) / (epochs.max() - epochs.min())
    if pace <= 0:
        return lead
    for i, (group, response) in enumerate(sources):
        if response.versions is not None:
            behind = sum(response.versions) / 2 - max(group.step - 1, 0)
            lead[i] = np.clip(behind / pace, -1.0, 1.0)
    return lead


def _merits(rewards: list[float | None], weight: float) -> npt.NDArray[np.float32]:
    """Return what each response counts for its reward, float32, shape (m,): 1, or 1 + `weight` above the mean."""
    values = np.asarray([np.nan if reward is None else reward for reward in rewards], np.float64)
    known = np.isfinite(values)
    above = known & (values > values[known].mean()) if weight and known.any() else np.zeros(known.size, bool)
    return (1 + weight * above).astype(np.float32)
