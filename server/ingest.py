"""Checks what arrives. Nothing beyond this file sees a message that is not well formed."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from redraft.errors import InvalidArgument
from redraft.rollout import context_of, prompt_key
from redraft.server.config import LimitsConfig
from redraft.server.history import GroupRecord, Int32Array, ResponseRecord, Scope
from redraft.v1 import common_pb2, publish_pb2
from redraft.vocabulary import Vocabulary
from redraft.wire import tokens_from_bytes

_MAX_NAME = 200


def check_name(name: str, field: str) -> str:
    """Return a run's or worker's name.

    Raises:
        InvalidArgument: it is empty, too long or not printable.
    """
    if not name:
        raise InvalidArgument(f"{field}: must not be empty")
    if len(name) > _MAX_NAME:
        raise InvalidArgument(f"{field}: must have at most {_MAX_NAME} characters, got {len(name)}")
    if not name.isprintable():
        raise InvalidArgument(f"{field}: must be printable")
    return name


def check_run(message: common_pb2.Run) -> tuple[str, Vocabulary]:
    """Return a run's name and vocabulary.

    Raises:
        InvalidArgument: either is malformed.
    """
    name = check_name(message.name, "run.name")
    try:
        return name, Vocabulary(message.vocabulary.size, message.vocabulary.fingerprint)
    except InvalidArgument as error:
        raise InvalidArgument(f"run.vocabulary.{error}") from None


def check_prompt(
    message: common_pb2.Prompt, field: str, limits: LimitsConfig, vocabulary: Vocabulary
) -> tuple[bytes, Int32Array]:
    """Return a prompt's key and tokens.

    Raises:
        InvalidArgument: there are no tokens, too many, one out of range, or the key is not theirs.
    """
    ids = check_tokens(message.token_ids, f"{field}.token_ids", limits.prompt_tokens, vocabulary)
    key = prompt_key(ids)
    if message.key and message.key != key:
        raise InvalidArgument(f"{field}.key: does not belong to {field}.token_ids")
    return key, ids


def check_tokens(
    data: bytes, field: str, limit: int, vocabulary: Vocabulary, *, may_be_empty: bool = False
) -> Int32Array:
    """Return token ids, int32, shape (n,).

    Raises:
        InvalidArgument: there are none or more than `limit`, or one is out of range.
    """
    if not data and not may_be_empty:
        raise InvalidArgument(f"{field}: must hold at least one token id")
    if len(data) > 4 * limit:
        raise InvalidArgument(f"{field}: {len(data) // 4} token ids are more than the limit of {limit}")
    return tokens_from_bytes(data, field, vocabulary_size=vocabulary.size)


def check_group(message: publish_pb2.Group, limits: LimitsConfig, vocabulary: Vocabulary) -> GroupRecord:
    """Return a published group.

    Raises:
        InvalidArgument: something about it is malformed; the message starts with the field's name.
    """
    key, prompt = check_prompt(message.prompt, "prompt", limits, vocabulary)
    if message.step >= 2**63:
        raise InvalidArgument(f"step: must be below 2**63, got {message.step}")
    if len(message.group_id) > _MAX_NAME:
        raise InvalidArgument(f"group_id: must have at most {_MAX_NAME} characters")
    if not message.responses:
        raise InvalidArgument("responses: must hold at least one response")
    if len(message.responses) > limits.group_responses:
        raise InvalidArgument(
            f"responses: {len(message.responses)} are more than the limit of {limits.group_responses} in one message"
        )
    responses: list[ResponseRecord] = []
    samples: set[int] = set()
    for i, response in enumerate(message.responses):
        field = f"responses[{i}]"
        ids = check_tokens(response.token_ids, f"{field}.token_ids", limits.response_tokens, vocabulary)
        if response.sample in samples:
            raise InvalidArgument(f"{field}.sample: {response.sample} is in the group twice")
        samples.add(response.sample)
        reward = response.reward if response.HasField("reward") else None
        if reward is not None and not math.isfinite(reward):
            raise InvalidArgument(f"{field}.reward: must be finite, got {reward}")
        context, versions = check_turns(response, field, ids.size), check_versions(response, field)
        responses.append(ResponseRecord(response.sample, ids, reward, context, versions))
    return GroupRecord(
        key=key,
        prompt_token_ids=prompt,
        epoch=message.epoch,
        step=message.step,
        validation=message.validation,
        group_id=message.group_id,
        responses=responses,
    )


def check_turns(message: publish_pb2.Response, field: str, tokens: int) -> npt.NDArray[np.bool_] | None:
    """Return which of a response's `tokens` tokens are context: bool, shape (tokens,), or None for none.

    Raises:
        InvalidArgument: the turns are not those of so many tokens.
    """
    if len(message.turns) > 1 and min(message.turns[1:]) == 0:
        raise InvalidArgument(f"{field}.turns: only the first length may be zero")
    if message.turns and sum(message.turns) != tokens:
        raise InvalidArgument(f"{field}.turns: sum up to {sum(message.turns)} of {tokens} tokens")
    return context_of(message.turns)


def check_versions(message: publish_pb2.Response, field: str) -> tuple[int, int] | None:
    """Return the versions of the weights that wrote a response, or None.

    Raises:
        InvalidArgument: one is missing or out of range.
    """
    first, last = message.HasField("first_version"), message.HasField("last_version")
    if not first and not last:
        return None
    if first != last:
        raise InvalidArgument(
            f"{field}.{'last' if first else 'first'}_version: must be set with the other one"
        )
    if not message.first_version <= message.last_version < 2**63:
        raise InvalidArgument(
            f"{field}.last_version: must be in [first_version, 2**63), got {message.last_version} "
            f"after {message.first_version}"
        )
    return message.first_version, message.last_version


def check_scope(message: publish_pb2.ForgetRequest) -> Scope:
    """Return what to forget.

    Raises:
        InvalidArgument: no scope is set, or it is out of range.
    """
    name = message.WhichOneof("scope")
    if name is None or (name == "everything" and not message.everything):
        raise InvalidArgument("scope: set everything to true, or from_epoch, from_step or before_epoch")
    if message.from_step >= 2**63:
        raise InvalidArgument(f"from_step: must be below 2**63, got {message.from_step}")
    return Scope(**{name: getattr(message, name)})


def check_acceptance(message: common_pb2.Acceptance) -> None:
    """Check a worker's counters.

    Raises:
        InvalidArgument: they contradict each other or are not counts.
    """
    for field in ("steps", "emitted", "unavailable", "index_bytes"):
        if getattr(message, field) >= 2**63:
            raise InvalidArgument(f"acceptance.{field}: must be below 2**63")
    if not (math.isfinite(message.draft_seconds) and message.draft_seconds >= 0):
        raise InvalidArgument(
            f"acceptance.draft_seconds: must be finite and not negative, got {message.draft_seconds}"
        )
    seen: set[str] = set()
    if len(message.sources) > 16:
        raise InvalidArgument("acceptance.sources: must hold at most 16 items")
    for i, source in enumerate(message.sources):
        field = f"acceptance.sources[{i}]"
        check_name(source.source, f"{field}.source")
        if source.source in seen:
            raise InvalidArgument(f"{field}.source: {source.source!r} is there twice")
        seen.add(source.source)
        if len(source.drafted) > 4096 or len(source.accepted) > len(source.drafted):
            raise InvalidArgument(
                f"{field}.accepted: must have no more positions than drafted, which at most 4096"
            )
        for position, (accepted, drafted) in enumerate(zip(source.accepted, source.drafted, strict=False)):
            if not accepted <= drafted < 2**63:
                raise InvalidArgument(
                    f"{field}.accepted: {accepted} of {drafted} drafted tokens at position {position}"
                )
