"""Puts the indexes of a FetchIndex stream together from their chunks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from redraft.errors import DataLoss
from redraft.v1 import index_pb2

_HEADER = index_pb2.IndexHeader


def assemble(
    answers: Iterator[index_pb2.FetchIndexResponse], prompts: int, limit: int
) -> Iterator[tuple[int, index_pb2.IndexHeader, npt.NDArray[np.uint8] | None]]:
    """Yield (position, header, blob or None) for each prompt, copying every chunk once.

    Raises:
        DataLoss: the stream is not header, chunks, header, chunks ... as announced.
    """
    for message in answers:
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
            if part is None or part.WhichOneof("part") != "chunk" or part.position != message.position:
                raise DataLoss(f"chunk: the index ended after {filled} of {blob.size} bytes")
            chunk = part.chunk  # each look at the field makes a copy
            if not chunk or filled + len(chunk) > blob.size:
                raise DataLoss("chunk: the index is longer than announced, or a chunk is empty")
            blob[filled : filled + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
            filled += len(chunk)
        yield message.position, header, blob
