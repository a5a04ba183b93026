"""A finished response as the trainer knows it, and the key of the prompt that it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

Int32Array = npt.NDArray[np.int32]


def prompt_key(token_ids: Sequence[int] | Int32Array) -> bytes:
    """Return the prompt's key: XXH3-128 of its token ids as little-endian int32, 16 bytes.

    A key only narrows the search: whoever looks a prompt up by key compares the tokens on a hit.

    Args:
        token_ids: the prompt's token ids, shape (n,), each 0 <= id < 2**31.
    """
    return xxhash.xxh3_128_digest(np.ascontiguousarray(token_ids, dtype="<i4").data)


def group_key(key: bytes, group_id: str = "") -> bytes:
    """Return what names a group in the live relay: the prompt's key, or its digest with the group's id.

    Args:
        key: `prompt_key` of the prompt.
        group_id: the trainer's name for the group; empty: the prompt alone names it.
    """
    return xxhash.xxh3_128_digest(key + group_id.encode()) if group_id else key


@dataclass(frozen=True, slots=True)
class Rollout:
    """One finished response to one prompt.

    (run, epoch, step, prompt key, sample) identifies it: publishing the same identity again replaces it.
    """

    prompt_token_ids: Int32Array
    """int32, shape (n,), n >= 1: exactly what the engine was given."""
    response_token_ids: Int32Array
    """int32, shape (m,), m >= 1: what the engine emitted, end token included."""
    epoch: int
    """Pass over the data set, >= 0."""
    step: int
    """The trainer's global step, >= 0."""
    sample: int
    """Index of the response within its group, >= 0."""
    reward: float | None = None
    """The trainer's scalar reward, finite; None when there is none."""
    group_id: str = ""
    """The trainer's name for the group (verl: `uid`); informative only."""
    validation: bool = False
    """True for a validation rollout."""
    key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", prompt_key(self.prompt_token_ids))
