"""Chunks encoded by hand are byte for byte what protobuf writes."""

from __future__ import annotations

import pytest

from redraft.server.chunks import encode_chunks
from redraft.v1.index_pb2 import FetchIndexResponse


@pytest.mark.parametrize("position", [0, 1, 127, 128, 300, 2**32 - 1])
@pytest.mark.parametrize("size", [1, 127, 128, 129, 16_384, 100_000])
def test_encoded_chunks_are_protobufs(position, size):
    blob = bytes(range(256)) * 3 if size < 129 else bytes(range(256)) * 300
    encoded = list(encode_chunks(position, blob, size))
    expected = [
        FetchIndexResponse(position=position, chunk=blob[start : start + size]).SerializeToString()
        for start in range(0, len(blob), size)
    ]
    assert encoded == expected


def test_nothing_is_no_chunk():
    assert list(encode_chunks(0, b"", 10)) == []
