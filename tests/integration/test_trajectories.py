"""What a trajectory is beside its tokens: who wrote which of them, and with which weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redraft._core import FrozenIndex
from redraft.client import DraftSource
from redraft.errors import InvalidArgument
from redraft.rollout import CONTEXT_ONLY, Rollout, context_of, mark_context, turns_of
from redraft.server import codec, window
from redraft.server.config import WindowConfig
from redraft.server.history import GroupRecord, ResponseRecord
from redraft.server.sqlite_history import SqliteHistory
from redraft.server.transfer import read_rollouts, write_rollouts
from redraft.v1 import common_pb2, drafting_pb2, publish_pb2
from redraft.wire import tokens_from_bytes, tokens_to_bytes

PROMPT = np.arange(1, 6, dtype=np.int32)
TEXT = np.arange(100, 112, dtype=np.int32)
MASK = [1] * 4 + [0] * 3 + [1] * 5


def trajectory(**changes) -> Rollout:
    fields = {"epoch": 0, "step": 1, "sample": 0, "response_mask": MASK, "weight_versions": (0, 2)}
    return Rollout(PROMPT, TEXT, **(fields | changes))


@given(st.lists(st.booleans(), min_size=1, max_size=30))
@settings(deadline=None)
def test_turns_say_what_the_mask_says(mask):
    turns = turns_of(mask)
    context = context_of(turns)
    assert (np.ones(len(mask), bool) if context is None else ~context).tolist() == mask
    assert not turns or (sum(turns) == len(mask) and 0 not in turns[1:])


def test_a_published_trajectory_keeps_its_mask_and_versions(running, publisher, tmp_path):
    out = publisher(running.address, run="run")
    out.publish([trajectory(), trajectory(sample=1, response_mask=[1] * 12, weight_versions=None)])
    assert out.flush(20)
    store = SqliteHistory(running.config.data_directory, readonly=True)
    (group,) = store.export(store.run("run"))
    first, second = group.responses
    assert first.token_ids.tolist() == TEXT.tolist()
    assert (~first.context).astype(int).tolist() == MASK
    assert first.versions == (0, 2)
    assert (second.context, second.versions) == (None, None)
    for name in ("out.jsonl.zst", "out.parquet"):
        assert write_rollouts(tmp_path / name, iter([group])) == 2
        again = list(read_rollouts(tmp_path / name))
        assert [r.response_mask for r in again] == [MASK, None]
        assert [r.weight_versions for r in again] == [(0, 2), None]
    store.close()


def test_validation_shares_the_prompts_index_and_nothing_else(running, publisher):
    out = publisher(running.address, run="run")
    out.publish([trajectory(), trajectory(validation=True)])  # the same epoch, step and sample
    assert out.flush(20)
    assert out.stats().published == 2
    store = SqliteHistory(running.config.data_directory, readonly=True)
    assert sorted(group.validation for group in store.export(store.run("run"))) == [False, True]
    store.close()
    source = DraftSource([running.address], run="run")
    source.prefetch(PROMPT)
    assert source.wait(20)
    assert source.get(PROMPT).num_responses == 2
    source.close()


def test_publishing_again_with_another_mask_or_version_replaces(running):
    def send(**changes) -> publish_pb2.GroupOutcome:
        response = publish_pb2.Response(token_ids=tokens_to_bytes(TEXT), **changes)
        group = publish_pb2.Group(
            prompt=common_pb2.Prompt(token_ids=tokens_to_bytes(PROMPT)), responses=[response]
        )
        other = publish_pb2.Response(token_ids=b"\1\0\0\0", sample=1)
        group.responses.append(other)
        request = publish_pb2.PublishRolloutsRequest(run=common_pb2.Run(name="run"), groups=[group])
        return running.stub.PublishRollouts(iter([request]), timeout=20).outcomes[0]

    assert send().stored == 2
    assert send(turns=[12]).unchanged == 2  # all written by the policy, said in another way
    assert send(turns=[4, 8]).replaced == 1
    assert send(turns=[4, 8]).unchanged == 2
    assert send(turns=[4, 8], first_version=0, last_version=0).replaced == 1
    assert send(turns=[4, 8], first_version=0, last_version=0).unchanged == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"turns": [4, 3]}, "responses[0].turns: sum up to 7 of 12 tokens"),
        ({"turns": [4, 0, 8]}, "responses[0].turns: only the first length"),
        ({"first_version": 1}, "responses[0].last_version: must be set"),
        ({"last_version": 1}, "responses[0].first_version: must be set"),
        ({"first_version": 2, "last_version": 1}, "responses[0].last_version: must be in"),
        ({"first_version": 2, "last_version": 2**63}, "responses[0].last_version: must be in"),
    ],
)
def test_odd_turns_and_versions_are_refused(running, fields, message):
    response = publish_pb2.Response(token_ids=tokens_to_bytes(TEXT), **fields)
    group = publish_pb2.Group(
        prompt=common_pb2.Prompt(token_ids=tokens_to_bytes(PROMPT)), responses=[response]
    )
    request = publish_pb2.PublishRolloutsRequest(run=common_pb2.Run(name="run"), groups=[group])
    (outcome,) = running.stub.PublishRollouts(iter([request]), timeout=20).outcomes
    assert outcome.message.startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"response_mask": [1, 0]}, "rollouts[0].response_mask: its shape (2,) is not"),
        ({"weight_versions": (3, 2)}, "rollouts[0].weight_versions: must rise"),
        ({"weight_versions": (-1, 2)}, "rollouts[0].weight_versions: must rise"),
    ],
)
def test_a_publisher_refuses_odd_masks_and_versions(running, publisher, changes, message):
    with pytest.raises(InvalidArgument) as raised:
        publisher(running.address, run="run").publish([trajectory(**changes)])
    assert str(raised.value).startswith(message)


def test_context_is_matched_and_never_drafted(running, publisher):
    out = publisher(running.address, run="run")
    out.publish([trajectory()])
    assert out.flush(20)
    source = DraftSource([running.address], run="run")
    source.prefetch(PROMPT)
    assert source.wait(20)
    index = source.get(PROMPT)
    source.close()
    assert isinstance(index, FrozenIndex)
    tokens, _ = index.continuation(TEXT[:2], horizon=8)
    assert tokens.tolist()[:2] == [102, 103]
    assert all(tokens[2:5] >= CONTEXT_ONLY)
    said = mark_context(TEXT[:7], context_of([4, 3]))
    assert index.match_length(said) == 7
    assert index.continuation(said, horizon=3)[0].tolist() == [107, 108, 109]


def test_a_thin_client_is_never_drafted_context(running, publisher):
    out = publisher(running.address, run="run")
    out.publish([trajectory()])
    assert out.flush(20)
    message = drafting_pb2.DraftRequest(run=common_pb2.Run(name="run"))
    for number in range(2):
        message.open.add(id=number, prompt=common_pb2.Prompt(token_ids=tokens_to_bytes(PROMPT)))
        message.advance.add(id=number, token_ids=tokens_to_bytes(TEXT[: 2 * number + 1]), horizon=8)
    (answer,) = running.stub.Draft(iter([message]), timeout=20)
    drafts = [tokens_from_bytes(draft.token_ids, "").tolist() for draft in answer.drafts]
    assert drafts[0][:2] == [101, 102]
    assert drafts[1] == [103]
    assert all(draft.source in ("history", "live") for draft in answer.drafts)


def group(epoch: int, step: int, *versions: tuple[int, int] | None) -> GroupRecord:
    responses = [
        ResponseRecord(i, np.array([epoch, i], np.int32), versions=span) for i, span in enumerate(versions)
    ]
    return GroupRecord(b"", np.empty(0, np.int32), epoch, step, False, "", responses)


def weights(*newest_first: GroupRecord) -> list[float]:
    return window.choose(newest_first, WindowConfig(epochs=0, tokens=0, age_decay=0.25)).weights.tolist()


def test_synchronous_versions_age_by_the_epoch():
    assert weights(group(2, 9, (8, 8)), group(1, 5, (4, 4)), group(0, 1, None)) == [1.0, 0.25, 0.0625]


def test_a_response_is_as_old_as_the_weights_that_wrote_it():
    newest = group(1, 5, (4, 4), (4, 8))  # four steps an epoch; the second was interrupted for four updates
    assert weights(newest, group(0, 1, (0, 0), (2, 2))) == [0.5, 1.0, 0.125, 0.25]


def test_versions_alone_do_not_age_a_prompt_of_one_epoch():
    assert weights(group(0, 3, (0, 0), (2, 5))) == [1.0, 1.0]


@given(
    st.lists(
        st.tuples(st.lists(st.booleans(), min_size=1, max_size=20), st.none() | st.integers(0, 99)),
        min_size=1,
    ),
    st.sampled_from([5, 2**16 - 1, 2**16, 2**31 - 1]),
)
@settings(deadline=None)
def test_the_stored_form_keeps_masks_and_versions(rows, token):
    responses = [
        ResponseRecord(
            i,
            np.full(len(mask), token, np.int32),
            context=context_of(turns_of(mask)),
            versions=None if version is None else (version, version + 1),
        )
        for i, (mask, version) in enumerate(rows)
    ]
    again = codec.decode(codec.encode(responses))
    assert len(again) == len(responses)
    assert all(one.same(two) for one, two in zip(again, responses, strict=True))
