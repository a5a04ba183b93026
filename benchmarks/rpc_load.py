"""What the RPC benchmark sends: synthetic groups in encoded messages, made before anything is timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from redraft.benchmarks.groups import Group, Int32Array
from redraft.v1 import common_pb2, publish_pb2
from redraft.wire import tokens_to_bytes

RUN = "bench"
_MESSAGE_BYTES = 4 << 20


def synthetic(prompt: int, responses: int, tokens: int, *, epoch: int = 0) -> Group:
    """Return siblings: one text of Zipf-distributed tokens, a tenth of it exchanged in each response."""
    random = np.random.default_rng([prompt, epoch])
    vocabulary = 50_000
    base = ((np.random.default_rng(prompt).zipf(1.2, tokens) - 1) % vocabulary).astype(np.int32)
    texts = []
    for _ in range(responses):
        text = base.copy()
        changed = random.random(tokens) < 0.1
        text[changed] = random.integers(0, vocabulary, int(changed.sum()))
        texts.append(text)
    return Group(np.array([1, 2, prompt % 50_000, prompt // 50_000], dtype=np.int32), texts)


def messages(groups: Sequence[Group], *, epoch: int = 0) -> Iterator[bytes]:
    """Yield the encoded PublishRolloutsRequests of one stream, each of about 4 MiB."""
    message = publish_pb2.PublishRolloutsRequest(run=common_pb2.Run(name=RUN))
    size = 0
    for group in groups:
        item = message.groups.add(prompt=prompt_message(group.prompt), epoch=epoch, step=epoch)
        for sample, response in enumerate(group.responses):
            data = tokens_to_bytes(response)
            item.responses.add(token_ids=data, sample=sample, reward=float(sample % 2))
            size += len(data)
        if size >= _MESSAGE_BYTES:
            yield message.SerializeToString()
            message, size = publish_pb2.PublishRolloutsRequest(), 0
    if size:
        yield message.SerializeToString()


def prompt_message(prompt: Int32Array) -> common_pb2.Prompt:
    """Return the protocol's Prompt."""
    return common_pb2.Prompt(token_ids=tokens_to_bytes(prompt))
