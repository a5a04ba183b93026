"""Token ids on the wire: little-endian uint32 in bytes, checked on the way in. Server and client share it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from redraft.errors import InvalidArgument

Int32Array = npt.NDArray[np.int32]


def tokens_to_bytes(token_ids: npt.ArrayLike) -> bytes:
    """Return token ids (any integers in [0, 2**31), shape (n,)) as little-endian uint32."""
    return np.ascontiguousarray(token_ids, dtype="<u4").tobytes()


def tokens_from_bytes(data: bytes, field: str, *, vocabulary_size: int = 0) -> Int32Array:
    """Return the token ids in `data` as int32, shape (n,), read-only, sharing its memory.

    Args:
        data: little-endian uint32.
        field: name to begin error messages with.
        vocabulary_size: every id must be below it; 0 checks `id < 2**31` only.

    Raises:
        InvalidArgument: the length is not a multiple of four, or an id is out of range.
    """
    if len(data) % 4:
        raise InvalidArgument(f"{field}: {len(data)} bytes are not a whole number of uint32 token ids")
    ids = np.frombuffer(data, dtype="<u4")
    check_range(ids, field, vocabulary_size)
    return ids.view("<i4")


def check_range(ids: npt.NDArray[np.integer], field: str, vocabulary_size: int) -> None:
    """Raise InvalidArgument naming the first id that is negative, above int32 or beyond the vocabulary."""
    if not ids.size:
        return
    limit = vocabulary_size or 2**31
    low, high = int(ids.min()), int(ids.max())
    if low >= 0 and high < limit:
        return
    at = int(np.argmax((ids < 0) | (ids >= limit)))
    value = int(ids[at])
    if value < 0 or value >= 2**31:
        shown = value - 2**32 if value >= 2**31 else value
        raise InvalidArgument(f"{field}: token id {shown} at position {at} is negative or above int32")
    raise InvalidArgument(
        f"{field}: token id {value} at position {at} is beyond the vocabulary of {limit} ids"
    )
