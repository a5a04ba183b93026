"""Stored form of a group's responses: columns, compressed together, since siblings repeat each other.

Before compression (all little-endian): "RG", format version (uint8), flags (uint8, bit 0: high halves follow), number
of responses n (uint32), samples (uint32[n]), lengths (uint32[n]), rewards (float64[n], NaN = none), if flagged (bit 2)
first and last weight versions (2 x int64[n], -1 = none), then the low halves of all token ids (uint16[t]) and, if
flagged, their high halves (uint16[t]). Most vocabularies' high halves are nearly constant, so splitting costs them next
to nothing. If flagged (bit 1), the highest bit of an id says that the policy did not write the token. The zstd frame
carries a checksum of its content.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import zstandard

from redraft.errors import DataLoss
from redraft.server.history import ResponseRecord

_VERSION = 1
_HIGH, _CONTEXT, _VERSIONS = 1, 2, 4
_CONTEXT_BIT = np.uint32(1 << 31)
_HEAD = struct.Struct("<2sBBI")
_LEVEL = 3
_MAX_RAW_BYTES = 4 << 30
_LOCAL = threading.local()  # zstd contexts are costly to make and must not be shared between threads


def encode(responses: Sequence[ResponseRecord]) -> bytes:
    """Return the stored form of responses, the same for the same responses in any order."""
    ordered = sorted(responses, key=lambda response: response.sample)
    ids = np.concatenate([response.token_ids for response in ordered]).astype("<u4", copy=False)
    flags = 0
    if any(response.context is not None for response in ordered):
        flags |= _CONTEXT
        ids = ids | np.where(_context(ordered), _CONTEXT_BIT, np.uint32(0))
    high = (ids >> 16).astype("<u2")
    flags |= _HIGH if high.any() else 0
    versions = [response.versions or (-1, -1) for response in ordered]
    flags |= _VERSIONS if any(response.versions is not None for response in ordered) else 0
    rewards = [math.nan if response.reward is None else response.reward for response in ordered]
    raw = b"".join(
        (
            _HEAD.pack(b"RG", _VERSION, flags, len(ordered)),
            np.array([response.sample for response in ordered], dtype="<u4").tobytes(),
            np.array([response.token_ids.size for response in ordered], dtype="<u4").tobytes(),
            np.array(rewards, dtype="<f8").tobytes(),
            np.array(versions, dtype="<i8").T.tobytes() if flags & _VERSIONS else b"",
            ids.astype("<u2").tobytes(),
            high.tobytes() if flags & _HIGH else b"",
        )
    )
    return compress(raw)


def decode(payload: bytes) -> list[ResponseRecord]:
    """Return the responses of a stored group, by sample.

    Raises:
        DataLoss: the payload is damaged or of another version.
    """
    raw = decompress(payload)
    if len(raw) < _HEAD.size:
        raise DataLoss(f"payload: {len(raw)} bytes are too short for a group")
    magic, version, flags, n = _HEAD.unpack_from(raw)
    if magic != b"RG" or version != _VERSION or flags & ~(_HIGH | _CONTEXT | _VERSIONS):
        raise DataLoss(f"payload: not a group of format version {_VERSION}")
    columns = 32 if flags & _VERSIONS else 16
    if len(raw) < _HEAD.size + columns * n:
        raise DataLoss(f"payload: {len(raw)} bytes are too short for {n} responses")
    at = _HEAD.size
    samples = np.frombuffer(raw, "<u4", n, at)
    lengths = np.frombuffer(raw, "<u4", n, at + 4 * n)
    rewards = np.frombuffer(raw, "<f8", n, at + 8 * n)
    versions = (
        np.full((2, n), -1) if columns == 16 else np.frombuffer(raw, "<i8", 2 * n, at + 16 * n).reshape(2, n)
    )
    at += columns * n
    total = int(lengths.sum(dtype=np.int64))
    if len(raw) != at + total * (4 if flags & _HIGH else 2):
        raise DataLoss(f"payload: {len(raw)} bytes do not hold {total} tokens")
    ids = np.frombuffer(raw, "<u2", total, at).astype(np.int32)
    if flags & _HIGH:
        ids |= np.frombuffer(raw, "<u2", total, at + 2 * total).astype(np.int32) << 16
    context = ids < 0  # the highest bit
    if not flags & _CONTEXT and context.any():
        raise DataLoss("payload: a token id is above int32")
    ids &= 2**31 - 1
    ends = np.cumsum(lengths, dtype=np.int64)
    spans = [slice(int(ends[i] - lengths[i]), int(ends[i])) for i in range(n)]
    return [
        ResponseRecord(
            sample=int(samples[i]),
            token_ids=ids[spans[i]],
            reward=None if math.isnan(rewards[i]) else float(rewards[i]),
            context=context[spans[i]] if context[spans[i]].any() else None,
            versions=None if versions[0, i] < 0 else (int(versions[0, i]), int(versions[1, i])),
        )
        for i in range(n)
    ]


def _context(responses: Sequence[ResponseRecord]) -> npt.NDArray[np.bool_]:
    return np.concatenate(
        [np.zeros(r.token_ids.size, bool) if r.context is None else r.context for r in responses]
    )


def encode_prompt(token_ids: npt.NDArray[np.int32]) -> bytes:
    """Return the stored form of a prompt's tokens, int32, shape (n,)."""
    return compress(token_ids.astype("<u4", copy=False).tobytes())


def decode_prompt(payload: bytes) -> npt.NDArray[np.int32]:
    """Return a stored prompt's tokens, int32, shape (n,).

    Raises:
        DataLoss: the payload is damaged.
    """
    raw = decompress(payload)
    if len(raw) % 4 or not raw:
        raise DataLoss(f"payload: {len(raw)} bytes are not a prompt")
    return np.frombuffer(raw, "<i4")


def compress(raw: bytes) -> bytes:
    """Return a zstd frame of `raw` with a checksum."""
    compressor = getattr(_LOCAL, "compressor", None)
    if compressor is None:
        compressor = _LOCAL.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    data: bytes = compressor.compress(raw)
    return data


def decompress(payload: bytes) -> bytes:
    """Return the content of a zstd frame that `compress` made.

    Raises:
        DataLoss: the frame is damaged.
    """
    decompressor = getattr(_LOCAL, "decompressor", None)
    if decompressor is None:
        decompressor = _LOCAL.decompressor = zstandard.ZstdDecompressor()
    try:
        # A flipped bit in the announced size must not make the process ask for terabytes.
        if zstandard.frame_content_size(payload) not in range(_MAX_RAW_BYTES):
            raise DataLoss("payload: impossible size")
        raw: bytes = decompressor.decompress(payload)
    except (zstandard.ZstdError, MemoryError) as error:
        raise DataLoss(f"payload: {error}") from None
    return raw
