"""What a FetchIndex stream may bring, and what is made of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redraft.client.index_stream import assemble
from redraft.errors import DataLoss
from redraft.v1 import index_pb2

Response = index_pb2.FetchIndexResponse
Header = index_pb2.IndexHeader


def header(position: int, total: int) -> bytes:
    sent = Header(outcome=Header.OUTCOME_SENT, revision=7, total_bytes=total)
    return Response(position=position, header=sent).SerializeToString()


def chunk(position: int, data: bytes) -> bytes:
    return Response(position=position, chunk=data).SerializeToString()


def blobs(messages: list[bytes], prompts: int) -> dict[int, bytes | None]:
    found = assemble(iter(messages), prompts, 1 << 20)
    return {position: blob if blob is None else blob.tobytes() for position, _, blob in found}


@given(st.lists(st.lists(st.binary(min_size=1, max_size=300), min_size=1), max_size=200))
def test_blobs_are_the_chunks_in_order(indexes):
    messages = []
    for position, chunks in enumerate(indexes):
        messages.append(header(position, sum(map(len, chunks))))
        messages += [chunk(position, data) for data in chunks]
    assert blobs(messages, len(indexes)) == {i: b"".join(chunks) for i, chunks in enumerate(indexes)}


def test_fields_may_come_in_any_order_and_unknown_ones_are_ignored():
    late = Response(chunk=b"abc").SerializeToString() + Response(position=3).SerializeToString()
    unknown = b"\xa0\x06\x01" + chunk(3, b"de")
    assert blobs([header(3, 5), late, unknown], 4) == {3: b"abcde"}


def test_a_prompt_without_an_index_has_no_chunks():
    none = Response(position=1, header=Header(outcome=Header.OUTCOME_NO_HISTORY)).SerializeToString()
    assert blobs([none, header(0, 1), chunk(0, b"x")], 2) == {1: None, 0: b"x"}


@pytest.mark.parametrize(
    "messages",
    [
        [b"\xff"],
        [chunk(0, b"x")],
        [header(2, 5)],
        [header(0, 0)],
        [header(0, 2 << 20)],
        [header(0, 5)],
        [header(0, 5), chunk(0, b"abc")],
        [header(0, 5), chunk(0, b"abcdef")],
        [header(0, 5), chunk(1, b"abcde")],
        [header(0, 5), header(0, 5)],
        [header(0, 5), Response(chunk=b"").SerializeToString()],
        [header(0, 5), b""],
        [header(0, 5), chunk(0, b"abcde")[:-1]],
        [header(0, 5), b"\x08"],
        [header(0, 5), b"\x1a\xff"],
    ],
)
def test_a_stream_that_is_not_as_announced_is_refused(messages):
    with pytest.raises(DataLoss):
        blobs(messages, 2)
