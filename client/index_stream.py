"""Puts the indexes of a FetchIndex stream together from their chunks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from redraft.errors import DataLoss
from redraft.v1 import index_pb2

_LARGE_BLOCK = 16 << 20
"""Bytes. Freed memory is kept up to twice as much; above 32 MiB glibc learns nothing from it."""
_HEADER = index_pb2.IndexHeader
_POSITION = index_pb2.FetchIndexResponse.DESCRIPTOR.fields_by_name["position"].number << 3
_CHUNK = index_pb2.FetchIndexResponse.DESCRIPTOR.fields_by_name["chunk"].number << 3 | 2


def keep_freed_memory() -> None:
    """Have the C library keep freed memory instead of giving every large block back to the kernel.

    glibc does so from the first freed block of that size on (mallopt(3), "dynamic mmap threshold"), as in every
    process that has worked with a large array. Before, each received chunk comes in fresh pages, whose faults are half
    of a fetch's CPU time. The block itself is never touched, so it costs nothing; elsewhere this does nothing.
    """
    np.empty(_LARGE_BLOCK, dtype=np.uint8)


def assemble(
    answers: Iterator[bytes], prompts: int, limit: int
) -> Iterator[tuple[int, index_pb2.IndexHeader, npt.NDArray[np.uint8] | None]]:
    """Yield (position, header, blob or None) for each prompt, copying every chunk once.

    Args:
        answers: encoded FetchIndexResponses. Protobuf would copy a chunk when it decodes it and at each look at it.
        prompts: how many were asked for.
        limit: longest blob, in bytes.

    Raises:
        DataLoss: the stream is not header, chunks, header, chunks ... as announced.
    """
    for data in answers:
        message = _decode(data)
        if message.WhichOneof("part") != "header" or message.position >= prompts:
            raise DataLoss("FetchIndex: expected the header of a wanted prompt")
        header = message.header
        if header.outcome != _HEADER.OUTCOME_SENT:
            yield message.position, header, None
            continue
        if not 0 < header.total_bytes <= limit:
            raise DataLoss(f"total_bytes: {header.total_bytes} is not in [1, {limit}]")
        blob = np.empty(header.total_bytes, dtype=np.uint8)
        filled = 0
        while filled < blob.size:
            part = next(answers, None)
            chunk = _chunk(part, message.position) if part is not None else None
            if chunk is None:
                raise DataLoss(f"chunk: the index ended after {filled} of {blob.size} bytes")
            if not chunk or filled + len(chunk) > blob.size:
                raise DataLoss("chunk: the index is longer than announced, or a chunk is empty")
            blob[filled : filled + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
            filled += len(chunk)
        yield message.position, header, blob


def _decode(data: bytes) -> index_pb2.FetchIndexResponse:
    message = index_pb2.FetchIndexResponse()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise DataLoss(f"FetchIndex: bytes that are no message ({error})") from None
    return message


def _chunk(data: bytes, position: int) -> memoryview | bytes | None:
    """Return the chunk in an encoded message of a prompt, in place where it can be; None when there is none."""
    at = found = 0
    try:
        if data[0] == _POSITION:
            found, at = _varint(data, 1)
        if data[at] == _CHUNK:
            length, at = _varint(data, at + 1)
            if found == position and at + length == len(data):
                return memoryview(data)[at:]
    except IndexError:
        pass
    message = _decode(data)  # its fields come in another order, or it is something else
    return message.chunk if message.WhichOneof("part") == "chunk" and message.position == position else None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that is encoded at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
