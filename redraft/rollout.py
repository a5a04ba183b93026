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


CONTEXT_ONLY = 1 << 30
"""Token ids from here on stand in an index for text that the policy did not write: beyond every vocabulary, so a
draft that reaches one is cut there, while the same text in a request's context still matches."""


def mark_context(token_ids: Int32Array, context: npt.NDArray[np.bool_] | None) -> Int32Array:
    """Return token ids as an index holds them: those that the policy did not write moved to `CONTEXT_ONLY` and up.

    Args:
        token_ids: int32, shape (n,).
        context: bool, shape (n,): True where the policy did not write the token; None: it wrote all.
    """
    if context is None:
        return token_ids
    return np.where(context, token_ids | CONTEXT_ONLY, token_ids).astype(np.int32, copy=False)


def turns_of(mask: npt.ArrayLike) -> list[int]:
    """Return the lengths of the runs of a response mask, in turn, the first for ones (0 when it begins with zero).

    Args:
        mask: 1 (or True) where the policy wrote the token, shape (n,).

    Returns:
        the lengths; [] when the policy wrote all.
    """
    written = np.asarray(mask, dtype=bool)
    if written.all():
        return []
    edges = np.flatnonzero(np.diff(written)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [len(written)]])).tolist()
    return lengths if written[0] else [0, *lengths]


def context_of(turns: Sequence[int]) -> npt.NDArray[np.bool_] | None:
    """Return what `turns_of` was made from as bool, shape (n,), True for context; None without any."""
    if len(turns) < 2:
        return None
    return np.repeat(np.arange(len(turns)) % 2 == 1, turns)


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
    response_mask: npt.ArrayLike | None = None
    """Shape (m,): 1 where the policy wrote the token, 0 for what a tool or a user said, which is never drafted. None:
    the policy wrote all."""
    weight_versions: tuple[int, int] | None = None
    """Weights that wrote the first and the last token: the trainer's global steps when they were sent to the engine,
    0 <= first <= last. None: not known."""
    key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", prompt_key(self.prompt_token_ids))
