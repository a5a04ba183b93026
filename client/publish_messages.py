"""What a Publisher queues, and the messages that it makes of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from redraft.client.channels import run_message
from redraft.errors import InvalidArgument
from redraft.rollout import Rollout, turns_of
from redraft.v1 import common_pb2, publish_pb2
from redraft.vocabulary import Vocabulary
from redraft.wire import check_range, tokens_to_bytes

_BATCH_BYTES = 16 << 20
"""Most token bytes of one call: bounds what is sent again after a failure."""
_MESSAGE_BYTES = 4 << 20
"""Token bytes after which a message of the stream is closed."""


@dataclass(frozen=True, slots=True)
class Item:
    """A response that waits, in its form on the wire."""

    key: bytes
    prompt: bytes
    response: bytes
    epoch: int
    step: int
    sample: int
    validation: bool
    group_id: str
    reward: float | None
    turns: list[int]
    versions: tuple[int, int] | None

    @property
    def nbytes(self) -> int:
        """About how much memory it takes, in bytes."""
        return len(self.prompt) + len(self.response) + 64

    @property
    def group(self) -> tuple[bytes, int, int, bool, str]:
        """What it has in common with its siblings of the same step."""
        return (self.key, self.epoch, self.step, self.validation, self.group_id)


def take(queue: deque[Item], limit: int = _BATCH_BYTES) -> list[Item]:
    """Remove and return items from the front, at least one, up to `limit` bytes."""
    batch: list[Item] = []
    total = 0
    while queue and (not batch or total + queue[0].nbytes <= limit):
        batch.append(queue.popleft())
        total += batch[-1].nbytes
    return batch


def group(batch: list[Item]) -> list[list[Item]]:
    """Return the items by group, each sample once (the newest), no group above a message's size."""
    latest: dict[tuple[bytes, int, int, bool, str], dict[int, Item]] = {}
    for item in batch:
        latest.setdefault(item.group, {})[item.sample] = item
    groups: list[list[Item]] = []
    for samples in latest.values():
        total = _MESSAGE_BYTES
        for item in samples.values():
            if total + item.nbytes > _MESSAGE_BYTES:
                groups.append([])
                total = 0
            groups[-1].append(item)
            total += item.nbytes
    return groups


def messages(
    run: str, vocabulary: Vocabulary | None, groups: list[list[Item]]
) -> Iterator[publish_pb2.PublishRolloutsRequest]:
    """Yield the messages of one stream, each of about 4 MB."""
    message = publish_pb2.PublishRolloutsRequest(run=run_message(run, vocabulary))
    total = 0
    for group in groups:
        nbytes = sum(item.nbytes for item in group)
        if total and total + nbytes > _MESSAGE_BYTES:
            yield message
            message, total = publish_pb2.PublishRolloutsRequest(), 0
        total += nbytes
        first = group[0]
        message.groups.add(
            prompt=common_pb2.Prompt(token_ids=first.prompt, key=first.key),
            epoch=first.epoch,
            step=first.step,
            validation=first.validation,
            group_id=first.group_id,
            responses=[
                publish_pb2.Response(
                    token_ids=item.response,
                    sample=item.sample,
                    reward=item.reward,
                    turns=item.turns,
                    first_version=None if item.versions is None else item.versions[0],
                    last_version=None if item.versions is None else item.versions[1],
                )
                for item in group
            ],
        )
    yield message


def check(rollout: Rollout, name: str, vocabulary_size: int) -> Item:
    """Return a response in its form on the wire.

    Raises:
        InvalidArgument: a field is malformed; the message begins with `name` and the field's name.
    """
    for field in ("prompt_token_ids", "response_token_ids"):
        ids = np.asarray(getattr(rollout, field))
        if ids.ndim != 1 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
            raise InvalidArgument(f"{name}.{field}: must hold at least one token id, integers of shape (n,)")
        check_range(ids, f"{name}.{field}", vocabulary_size)
    for field, limit in (("epoch", 2**32), ("step", 2**63), ("sample", 2**32)):
        if not 0 <= getattr(rollout, field) < limit:
            raise InvalidArgument(f"{name}.{field}: must be in [0, {limit}), got {getattr(rollout, field)}")
    if rollout.reward is not None and not math.isfinite(rollout.reward):
        raise InvalidArgument(f"{name}.reward: must be finite, got {rollout.reward}")
    mask, versions = rollout.response_mask, rollout.weight_versions
    if mask is not None and np.shape(mask) != np.shape(rollout.response_token_ids):
        raise InvalidArgument(
            f"{name}.response_mask: its shape {np.shape(mask)} is not that of the response, "
            f"{np.shape(rollout.response_token_ids)}"
        )
    if versions is not None and not 0 <= versions[0] <= versions[1] < 2**63:
        raise InvalidArgument(f"{name}.weight_versions: must rise and be in [0, 2**63), got {versions}")
    return Item(
        key=rollout.key,
        prompt=tokens_to_bytes(rollout.prompt_token_ids),
        response=tokens_to_bytes(rollout.response_token_ids),
        epoch=int(rollout.epoch),
        step=int(rollout.step),
        sample=int(rollout.sample),
        validation=bool(rollout.validation),
        group_id=rollout.group_id,
        reward=None if rollout.reward is None else float(rollout.reward),
        turns=[] if mask is None else turns_of(mask),
        versions=None if versions is None else (int(versions[0]), int(versions[1])),
    )
