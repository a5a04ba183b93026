"""The relay's wire contract: messages by hand, without the client's code, and what the server makes of them."""

from __future__ import annotations

import queue

import grpc
import numpy as np
import pytest

from redraft.rollout import group_key, prompt_key
from redraft.server.config import LimitsConfig, RelayConfig
from redraft.v1 import common_pb2, relay_pb2
from redraft.vocabulary import Vocabulary

PROMPT = np.arange(1, 9, dtype=np.int32)
TEXT = np.arange(100, 200, dtype=np.int32)


class Stream:
    """A RelayLive stream without the client's code."""

    def __init__(self, running) -> None:
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self.call = running.stub.RelayLive(iter(self._messages.get, None), timeout=60)
        self.answers = iter(self.call)

    def send(self, message: relay_pb2.RelayRequest | None = None, **fields) -> None:
        message = message or relay_pb2.RelayRequest()
        message.MergeFrom(relay_pb2.RelayRequest(**fields))
        self._messages.put(message)

    def status(self) -> tuple[grpc.StatusCode, str]:
        """Read until the stream ends."""
        with pytest.raises(grpc.RpcError):
            for _ in self.answers:
                pass
        self._messages.put(None)
        return self.call.code(), self.call.details()


def u4(*ids: int) -> bytes:
    return np.array(ids, "<u4").tobytes()


def hello(name: str = "run", worker: int = 1, **vocabulary) -> relay_pb2.RelayRequest:
    run = common_pb2.Run(name=name, vocabulary=common_pb2.Vocabulary(**vocabulary))
    return relay_pb2.RelayRequest(run=run, worker=worker)


def join(prompt=PROMPT, key: bytes = b"", group_id: str = "") -> relay_pb2.RelayGroup:
    return relay_pb2.RelayGroup(prompt=common_pb2.Prompt(token_ids=u4(*prompt), key=key), group_id=group_id)


def written(count: int = 1, **fields) -> relay_pb2.RelayTokens:
    whole = {
        "group": prompt_key(PROMPT),
        "sequences": [0],
        "offsets": [0],
        "lengths": [count],
        "token_ids": u4(*range(count)),
    }
    return relay_pb2.RelayTokens(**(whole | fields))


BAD = {
    "no run": (relay_pb2.RelayRequest(worker=1), {}, "run:"),
    "no name": (hello(""), {}, "run.name:"),
    "no worker": (hello(worker=0), {}, "worker:"),
    "vocabulary too large": (hello(size=2**31), {}, "run.vocabulary.size:"),
    "another worker later": (hello(), {"worker": 2}, "worker:"),
    "another run later": (hello(), {"run": common_pb2.Run(name="other")}, "run.name:"),
    "no prompt": (hello(), {"join": [relay_pb2.RelayGroup()]}, "join[0].prompt.token_ids:"),
    "key of other tokens": (hello(), {"join": [join(), join(key=bytes(16))]}, "join[1].prompt.key:"),
    "long group id": (hello(), {"join": [join(group_id="x" * 201)]}, "join[0].group_id:"),
    "beyond the vocabulary": (hello(size=9), {"join": [join([9])]}, "join[0].prompt.token_ids: token id 9"),
    "no group": (hello(), {"tokens": [written(group=b"")]}, "tokens[0].group:"),
    "somebody else's tokens": (hello(), {"tokens": [written(worker=2)]}, "tokens[0].worker:"),
    "offsets missing": (hello(), {"tokens": [written(offsets=[])]}, "tokens[0].offsets:"),
    "lengths missing": (hello(), {"tokens": [written(lengths=[])]}, "tokens[0].lengths:"),
    "length of zero": (hello(), {"tokens": [written(lengths=[0])]}, "tokens[0].lengths:"),
    "fewer tokens than said": (hello(), {"tokens": [written(lengths=[2])]}, "tokens[0].token_ids:"),
    "tokens without pieces": (
        hello(),
        {"tokens": [written(sequences=[], offsets=[], lengths=[])]},
        "tokens[0].token_ids:",
    ),
    "half a token": (hello(), {"tokens": [written(token_ids=b"abc")]}, "tokens[0].token_ids:"),
    "negative token": (
        hello(),
        {"tokens": [written(token_ids=u4(2**32 - 1))]},
        "tokens[0].token_ids: token id -1",
    ),
    "token beyond the vocabulary": (
        hello(size=9),
        {"tokens": [written(token_ids=u4(9))]},
        "tokens[0].token_ids: token id 9",
    ),
    "response too long": (hello(), {"tokens": [written(offsets=[1000])]}, "tokens[0].offsets:"),
    "offset near 2**32": (hello(), {"tokens": [written(offsets=[2**32 - 1])]}, "tokens[0].offsets:"),
}


def test_groups_end_when_their_worker_dies_or_falls_silent(start, eventually):
    running = start(relay=RelayConfig(linger=0.01, silence=1.5, quiet=0.01))
    counts = running.server._service.relay.counts
    dead, silent = Stream(running), Stream(running)
    dead.send(hello(worker=1), join=[join()])
    silent.send(hello(worker=2), join=[join(PROMPT[1:])])
    eventually(lambda: counts().groups == 2)
    dead.send(tokens=[written(10)])
    eventually(lambda: counts().received_tokens == 10)
    eventually(lambda: counts().held_bytes == 0)  # nobody wrote for a while
    dead.call.cancel()
    eventually(lambda: counts().groups == 1)
    assert silent.status() == (grpc.StatusCode.UNAVAILABLE, "worker: was not heard of for 1.5 seconds")
    eventually(lambda: counts().groups == 0)


def test_memory_for_all_groups_is_bounded(start, eventually):
    running = start(relay=RelayConfig(memory_bytes=20_000))
    counts = running.server._service.relay.counts
    stream = Stream(running)
    stream.send(hello(worker=1), join=[join(PROMPT[at:]) for at in range(5)])
    for at in range(5):
        stream.send(tokens=[written(2000, group=prompt_key(PROMPT[at:]))])
    eventually(lambda: counts().received_tokens == 10_000)
    assert 0 < counts().held_bytes <= 20_000
    assert counts().groups == 5


@pytest.mark.parametrize("case", BAD)
def test_malformed_messages_end_the_stream_and_name_the_field(start, case):
    running = start(limits=LimitsConfig(response_tokens=1000))
    first, then, begin = BAD[case]
    stream = Stream(running)
    if then:
        stream.send(first, join=[join()])
        stream.send(**then)
    else:
        stream.send(first)
    code, details = stream.status()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(begin), details
    assert running.server._service.relay.counts().received_tokens == 0


def test_tokens_of_a_group_that_was_not_joined_are_refused(running):
    stream = Stream(running)
    stream.send(hello(), tokens=[written(group=group_key(prompt_key(PROMPT), "other"))])
    assert stream.status() == (grpc.StatusCode.NOT_FOUND, "tokens[0].group: was not joined in this stream")


def test_another_vocabulary_is_refused_whether_published_or_only_relayed(running, publisher, group):
    first = Stream(running)
    first.send(hello(fingerprint="a"))
    next(first.answers)
    second = Stream(running)
    second.send(hello(fingerprint="b"))
    assert second.status()[0] is grpc.StatusCode.FAILED_PRECONDITION
    publish = publisher(running.address, run="published", vocabulary=Vocabulary(fingerprint="a", size=1000))
    publish.publish(group())
    assert publish.flush(20)
    third = Stream(running)
    third.send(hello("published", fingerprint="b"))
    code, details = third.status()
    assert (code, details[:26]) == (grpc.StatusCode.FAILED_PRECONDITION, "run.vocabulary.fingerprint")


def test_streams_and_groups_are_bounded(start):
    running = start(relay=RelayConfig(streams=1, groups=2))
    first = Stream(running)
    first.send(hello())
    next(first.answers)
    second = Stream(running)
    assert second.status()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.send(join=[join(PROMPT[at:]) for at in range(3)])
    code, details = first.status()
    assert (code, details) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "join[2]: more than 2 groups in this stream",
    )


def test_repeated_tokens_are_not_sent_again(running):
    a, b = Stream(running), Stream(running)
    a.send(hello(worker=1), join=[join()])
    b.send(hello(worker=2), join=[join()])
    a.send(tokens=[written(10)])
    a.send(tokens=[written(10), written(10, sequences=[0, 1], offsets=[8, 0], lengths=[4, 6])])
    a.send(leave=[prompt_key(PROMPT), b"unknown"])
    pieces = []
    while sum(length for _, _, length, _ in pieces) < 18:
        for tokens in next(b.answers).tokens:
            columns = zip(tokens.sequences, tokens.offsets, tokens.lengths, strict=True)
            pieces += [(*each, tokens.worker) for each in columns]
    assert pieces == [(0, 0, 10, 1), (0, 10, 2, 1), (1, 0, 6, 1)]
