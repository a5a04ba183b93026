"""A flipped bit in the size that a stored group announces made the server ask for terabytes of memory."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from redraft.errors import DataLoss
from redraft.server import codec
from redraft.server.history import ResponseRecord


def announcing(payload: bytes, size: int) -> bytes:
    """Return the frame with another announced size, in eight bytes (RFC 8878, 3.1.1.1)."""
    single_segment_with_checksum = 0b1110_0100
    body = payload[zstandard.frame_header_size(payload) :]
    return payload[:4] + bytes([single_segment_with_checksum]) + size.to_bytes(8, "little") + body


def test_an_impossible_size_is_damage_and_nothing_is_allocated():
    ids = np.arange(70_000, dtype=np.int32)
    payload = codec.encode([ResponseRecord(0, ids)])
    size = zstandard.frame_content_size(payload)
    (whole,) = codec.decode(announcing(payload, size))
    assert whole.token_ids.tolist() == ids.tolist()
    for bit in range(33, 63):
        with pytest.raises(DataLoss, match=r"^payload: impossible size$"):
            codec.decode(announcing(payload, size | 1 << bit))
