"""Which responses to a prompt are indexed, and how much each counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from redraft.server.config import WindowConfig
from redraft.server.history import GroupRecord


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

    Ages are counted from the prompt's own newest epoch, so that a prompt's index changes only with its own history.

    Args:
        groups: one prompt's groups, newest first; read no further than needed.
        config: the window.
    """
    tokens: list[npt.NDArray[np.int32]] = []
    weights: list[float] = []
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
            tokens.append(response.token_ids)
            weights.append(config.age_decay**age)
            total += response.token_ids.size
        if full:
            break
    return Window(
        token_ids=np.concatenate(tokens) if tokens else np.empty(0, np.int32),
        offsets=np.cumsum([0, *(ids.size for ids in tokens)], dtype=np.int64),
        # A very old epoch must not reach weight zero, which the index refuses.
        weights=np.maximum(np.array(weights, dtype=np.float32), np.float32(1e-6)),
        newest_epoch=max(newest, 0),
    )
