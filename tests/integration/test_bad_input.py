"""Malformed messages: each is refused with its status code and a message that names the field; nothing is stored."""

from __future__ import annotations

import math

import grpc
import numpy as np
import pytest

from redraft.rollout import prompt_key
from redraft.server.config import LimitsConfig
from redraft.v1 import common_pb2, drafting_pb2, index_pb2, publish_pb2, stats_pb2

TOKENS = np.arange(1, 9, dtype="<u4").tobytes()
LIMITS = LimitsConfig(
    prompt_tokens=100,
    response_tokens=100,
    group_responses=8,
    stream_groups=10,
    fetch_prompts=10,
    draft_requests=4,
)


def u4(*ids: int) -> bytes:
    return np.array(ids, dtype="<u4").tobytes()


def prompt(token_ids: bytes = TOKENS, key: bytes = b"") -> common_pb2.Prompt:
    return common_pb2.Prompt(token_ids=token_ids, key=key)


def run(name: str = "run", size: int = 1000, fingerprint: str = "") -> common_pb2.Run:
    return common_pb2.Run(name=name, vocabulary=common_pb2.Vocabulary(size=size, fingerprint=fingerprint))


def response(token_ids: bytes = TOKENS, sample: int = 0, reward: float | None = None) -> publish_pb2.Response:
    return publish_pb2.Response(token_ids=token_ids, sample=sample, reward=reward)


def group(**fields) -> publish_pb2.Group:
    return publish_pb2.Group(**({"prompt": prompt(), "step": 3, "responses": [response()]} | fields))


@pytest.fixture
def served(start):
    """Return a server that holds one response, and a function that tells what it holds."""
    running = start(limits=LIMITS)
    message = publish_pb2.PublishRolloutsRequest(run=run(), groups=[group(step=1)])
    assert running.stub.PublishRollouts(iter([message]), timeout=20).outcomes[0].stored == 1

    def contents():
        stats = running.stub.GetStats(stats_pb2.GetStatsRequest(), timeout=20)
        return [
            (each.run.name, each.prompts, each.responses, each.tokens, len(each.workers))
            for each in stats.runs
        ]

    return running, contents, contents()


BAD_GROUPS = {
    "no prompt": (group(prompt=None), "prompt.token_ids:"),
    "empty prompt": (group(prompt=prompt(b"")), "prompt.token_ids:"),
    "prompt of 3 bytes": (group(prompt=prompt(b"abc")), "prompt.token_ids: 3 bytes"),
    "prompt of 9 bytes": (group(prompt=prompt(TOKENS[:9])), "prompt.token_ids: 9 bytes"),
    "negative prompt token": (
        group(prompt=prompt(u4(1, 2**32 - 1))),
        "prompt.token_ids: token id -1 at position 1",
    ),
    "prompt token beyond the vocabulary": (
        group(prompt=prompt(u4(1, 1000))),
        "prompt.token_ids: token id 1000",
    ),
    "prompt too long": (group(prompt=prompt(u4(*range(101)))), "prompt.token_ids: 101 token ids"),
    "key of other tokens": (group(prompt=prompt(key=prompt_key([1, 2]))), "prompt.key:"),
    "key too short": (group(prompt=prompt(key=b"abc")), "prompt.key:"),
    "key too long": (group(prompt=prompt(key=bytes(17))), "prompt.key:"),
    "step above int64": (group(step=2**63), "step:"),
    "step at its end": (group(step=2**64 - 1), "step:"),
    "group id too long": (group(group_id="g" * 201), "group_id:"),
    "no responses": (group(responses=[]), "responses:"),
    "too many responses": (group(responses=[response(sample=i) for i in range(9)]), "responses: 9"),
    "empty response": (group(responses=[response(b"")]), "responses[0].token_ids:"),
    "second response empty": (group(responses=[response(), response(b"", 1)]), "responses[1].token_ids:"),
    "truncated response": (group(responses=[response(TOKENS[:-1])]), "responses[0].token_ids: 31 bytes"),
    "one byte": (group(responses=[response(b"x")]), "responses[0].token_ids: 1 bytes"),
    "negative token": (group(responses=[response(u4(5, 2**32 - 7))]), "responses[0].token_ids: token id -7"),
    "smallest int32": (
        group(responses=[response(u4(2**31))]),
        "responses[0].token_ids: token id -2147483648",
    ),
    "largest int32": (
        group(responses=[response(u4(2**31 - 1))]),
        "responses[0].token_ids: token id 2147483647",
    ),
    "token beyond the vocabulary": (
        group(responses=[response(u4(999, 1000))]),
        "responses[0].token_ids: token id 1000",
    ),
    "response too long": (
        group(responses=[response(u4(*range(101)))]),
        "responses[0].token_ids: 101 token ids",
    ),
    "duplicate sample": (group(responses=[response(), response()]), "responses[1].sample: 0"),
    "duplicate sample later": (
        group(responses=[response(sample=7), response(sample=1), response(sample=7)]),
        "responses[2].sample: 7",
    ),
    "NaN reward": (
        group(responses=[response(reward=math.nan)]),
        "responses[0].reward: must be finite, got nan",
    ),
    "infinite reward": (
        group(responses=[response(reward=math.inf)]),
        "responses[0].reward: must be finite, got inf",
    ),
    "minus infinite reward": (group(responses=[response(reward=-math.inf)]), "responses[0].reward:"),
}


@pytest.mark.parametrize("case", BAD_GROUPS)
def test_a_malformed_group_is_refused_and_its_neighbours_stored(served, case):
    running, contents, before = served
    bad, message = BAD_GROUPS[case]
    request = publish_pb2.PublishRolloutsRequest(run=run(), groups=[bad])
    outcomes = running.stub.PublishRollouts(iter([request]), timeout=20).outcomes
    assert [outcome.code for outcome in outcomes] == [grpc.StatusCode.INVALID_ARGUMENT.value[0]]
    assert outcomes[0].message.startswith(message)
    assert contents() == before
    request.groups.insert(0, group(step=10))
    request.groups.append(group(step=11))
    outcomes = running.stub.PublishRollouts(iter([request]), timeout=20).outcomes
    assert [(outcome.code, outcome.stored) for outcome in outcomes] == [(0, 1), (3, 0), (0, 1)]
    assert contents()[0][2] == before[0][2] + 2


def publishing(*messages):
    return lambda stub: stub.PublishRollouts(iter(messages), timeout=20)


def message(*groups, **fields) -> publish_pb2.PublishRolloutsRequest:
    return publish_pb2.PublishRolloutsRequest(groups=groups, **fields)


def fetching(request: index_pb2.FetchIndexRequest):
    return lambda stub: list(stub.FetchIndex(request, timeout=20))


def wanted(**fields) -> index_pb2.WantedIndex:
    return index_pb2.WantedIndex(**({"prompt": prompt()} | fields))


def drafting(*messages: drafting_pb2.DraftRequest):
    return lambda stub: list(stub.Draft(iter(messages), timeout=20))


def opening(number: int = 1, **fields) -> drafting_pb2.OpenRequest:
    return drafting_pb2.OpenRequest(**({"id": number, "prompt": prompt()} | fields))


def drafted(**fields) -> drafting_pb2.DraftRequest:
    return drafting_pb2.DraftRequest(run=run(), **fields)


def advancing(number: int = 1, **fields) -> drafting_pb2.AdvanceRequest:
    return drafting_pb2.AdvanceRequest(id=number, **fields)


def forgetting(**fields):
    return lambda stub: stub.Forget(publish_pb2.ForgetRequest(**fields), timeout=20)


def reporting(acceptance: common_pb2.Acceptance | None, **fields):
    fields = {"run": "run", "worker": "w"} | fields
    return lambda stub: stub.ReportAcceptance(
        stats_pb2.ReportAcceptanceRequest(acceptance=acceptance, **fields), timeout=20
    )


def counters(drafted=(), accepted=(), source="history", **fields) -> common_pb2.Acceptance:
    parts = common_pb2.SourceAcceptance(source=source, drafted=drafted, accepted=accepted)
    return common_pb2.Acceptance(sources=[parts], **fields)


BAD_CALLS = {
    # name: (call, status code, beginning of the message)
    "publish: empty stream": (publishing(), "INVALID_ARGUMENT", "run:"),
    "publish: no run": (publishing(message(group())), "INVALID_ARGUMENT", "run:"),
    "publish: empty run name": (publishing(message(group(), run=run(""))), "INVALID_ARGUMENT", "run.name:"),
    "publish: long run name": (
        publishing(message(group(), run=run("r" * 201))),
        "INVALID_ARGUMENT",
        "run.name:",
    ),
    "publish: line break in run name": (
        publishing(message(group(), run=run("a\nb"))),
        "INVALID_ARGUMENT",
        "run.name:",
    ),
    "publish: impossible vocabulary": (
        publishing(message(group(), run=run("new", size=2**31))),
        "INVALID_ARGUMENT",
        "run.vocabulary.size:",
    ),
    "publish: long fingerprint": (
        publishing(message(group(), run=run("new", fingerprint="f" * 201))),
        "INVALID_ARGUMENT",
        "run.vocabulary.fingerprint:",
    ),
    "publish: another vocabulary": (
        publishing(message(group(), run=run(size=999))),
        "FAILED_PRECONDITION",
        "run.vocabulary.size:",
    ),
    "publish: too many groups": (
        publishing(message(*[group(step=i, responses=[response(b"")]) for i in range(11)], run=run())),
        "INVALID_ARGUMENT",
        "groups:",
    ),
    "publish: run changes": (
        publishing(message(run=run()), message(group(), run=run("other"))),
        "INVALID_ARGUMENT",
        "run.name:",
    ),
    "fetch: no run": (
        fetching(index_pb2.FetchIndexRequest(prompts=[wanted()])),
        "INVALID_ARGUMENT",
        "run.name:",
    ),
    "fetch: unknown run": (
        fetching(index_pb2.FetchIndexRequest(run=run("nobody"), prompts=[wanted()])),
        "NOT_FOUND",
        "run.name:",
    ),
    "fetch: another vocabulary": (
        fetching(index_pb2.FetchIndexRequest(run=run(size=5), prompts=[wanted()])),
        "FAILED_PRECONDITION",
        "run.vocabulary.size:",
    ),
    "fetch: no prompts": (fetching(index_pb2.FetchIndexRequest(run=run())), "INVALID_ARGUMENT", "prompts:"),
    "fetch: too many prompts": (
        fetching(index_pb2.FetchIndexRequest(run=run(), prompts=[wanted()] * 11)),
        "INVALID_ARGUMENT",
        "prompts:",
    ),
    "fetch: empty prompt": (
        fetching(index_pb2.FetchIndexRequest(run=run(), prompts=[wanted(), wanted(prompt=None)])),
        "INVALID_ARGUMENT",
        "prompts[1].prompt.token_ids:",
    ),
    "fetch: key of other tokens": (
        fetching(index_pb2.FetchIndexRequest(run=run(), prompts=[wanted(prompt=prompt(key=bytes(16)))])),
        "INVALID_ARGUMENT",
        "prompts[0].prompt.key:",
    ),
    "fetch: truncated prompt": (
        fetching(index_pb2.FetchIndexRequest(run=run(), prompts=[wanted(prompt=prompt(TOKENS[:6]))])),
        "INVALID_ARGUMENT",
        "prompts[0].prompt.token_ids:",
    ),
    "draft: no run": (drafting(drafting_pb2.DraftRequest(open=[opening()])), "INVALID_ARGUMENT", "run:"),
    "draft: unknown run": (drafting(drafting_pb2.DraftRequest(run=run("nobody"))), "NOT_FOUND", "run.name:"),
    "draft: another vocabulary": (
        drafting(drafting_pb2.DraftRequest(run=run(size=7))),
        "FAILED_PRECONDITION",
        "run.vocabulary.size:",
    ),
    "draft: advance before open": (drafting(drafted(advance=[advancing()])), "NOT_FOUND", "advance[0].id:"),
    "draft: advance after close": (
        drafting(drafted(open=[opening()], close=[1]), drafted(advance=[advancing()])),
        "NOT_FOUND",
        "advance[0].id:",
    ),
    "draft: open twice": (drafting(drafted(open=[opening(), opening()])), "ALREADY_EXISTS", "open[1].id:"),
    "draft: open again later": (
        drafting(drafted(open=[opening()]), drafted(open=[opening()])),
        "ALREADY_EXISTS",
        "open[0].id:",
    ),
    "draft: advance twice": (
        drafting(drafted(open=[opening()], advance=[advancing(), advancing()])),
        "INVALID_ARGUMENT",
        "advance[1].id:",
    ),
    "draft: too many open": (
        drafting(drafted(open=[opening(i) for i in range(5)])),
        "RESOURCE_EXHAUSTED",
        "open[4]:",
    ),
    "draft: no prompt": (
        drafting(drafted(open=[opening(prompt=None)])),
        "INVALID_ARGUMENT",
        "open[0].prompt.token_ids:",
    ),
    "draft: huge horizon": (
        drafting(drafted(open=[opening()], advance=[advancing(horizon=2**32 - 1)])),
        "INVALID_ARGUMENT",
        "advance[0].horizon:",
    ),
    "draft: truncated tokens": (
        drafting(drafted(open=[opening()], advance=[advancing(token_ids=b"abcde")])),
        "INVALID_ARGUMENT",
        "advance[0].token_ids:",
    ),
    "draft: negative token": (
        drafting(drafted(open=[opening()], advance=[advancing(token_ids=u4(2**32 - 1))])),
        "INVALID_ARGUMENT",
        "advance[0].token_ids: token id -1",
    ),
    "draft: token beyond the vocabulary": (
        drafting(drafted(open=[opening(response_token_ids=u4(1000))])),
        "INVALID_ARGUMENT",
        "open[0].response_token_ids: token id 1000",
    ),
    "draft: response too long": (
        drafting(
            drafted(
                open=[opening(response_token_ids=u4(*range(60)))],
                advance=[advancing(token_ids=u4(*range(60)))],
            )
        ),
        "INVALID_ARGUMENT",
        "advance[0].token_ids:",
    ),
    "forget: no run": (forgetting(everything=True), "INVALID_ARGUMENT", "run:"),
    "forget: unknown run": (forgetting(run="nobody", everything=True), "NOT_FOUND", "run:"),
    "forget: no scope": (forgetting(run="run"), "INVALID_ARGUMENT", "scope:"),
    "forget: everything is false": (forgetting(run="run", everything=False), "INVALID_ARGUMENT", "scope:"),
    "forget: step above int64": (forgetting(run="run", from_step=2**63), "INVALID_ARGUMENT", "from_step:"),
    "report: no run": (reporting(counters(), run=""), "INVALID_ARGUMENT", "run:"),
    "report: no worker": (reporting(counters(), worker=""), "INVALID_ARGUMENT", "worker:"),
    "report: long worker": (reporting(counters(), worker="w" * 201), "INVALID_ARGUMENT", "worker:"),
    "report: no counters": (reporting(None), "INVALID_ARGUMENT", "acceptance:"),
    "report: source without a name": (
        reporting(counters(source="")),
        "INVALID_ARGUMENT",
        "acceptance.sources[0].source:",
    ),
    "report: more accepted than drafted": (
        reporting(counters([5, 3], [5, 4])),
        "INVALID_ARGUMENT",
        "acceptance.sources[0].accepted: 4 of 3",
    ),
    "report: accepted beyond the drafts": (
        reporting(counters([5], [5, 1])),
        "INVALID_ARGUMENT",
        "acceptance.sources[0].accepted:",
    ),
    "report: too many positions": (
        reporting(counters([1] * 5000)),
        "INVALID_ARGUMENT",
        "acceptance.sources[0].accepted:",
    ),
    "report: the same source twice": (
        reporting(common_pb2.Acceptance(sources=[common_pb2.SourceAcceptance(source="live")] * 2)),
        "INVALID_ARGUMENT",
        "acceptance.sources[1].source:",
    ),
    "report: too many sources": (
        reporting(
            common_pb2.Acceptance(sources=[common_pb2.SourceAcceptance(source=str(i)) for i in range(17)])
        ),
        "INVALID_ARGUMENT",
        "acceptance.sources:",
    ),
    "report: NaN seconds": (
        reporting(counters(draft_seconds=math.nan)),
        "INVALID_ARGUMENT",
        "acceptance.draft_seconds:",
    ),
    "report: negative seconds": (
        reporting(counters(draft_seconds=-1.0)),
        "INVALID_ARGUMENT",
        "acceptance.draft_seconds:",
    ),
    "report: huge steps": (reporting(counters(steps=2**64 - 1)), "INVALID_ARGUMENT", "acceptance.steps:"),
    "stats: unknown run": (
        lambda stub: stub.GetStats(stats_pb2.GetStatsRequest(run="nobody"), timeout=20),
        "NOT_FOUND",
        "run:",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_malformed_call_is_refused(served, case):
    running, contents, before = served
    call, code, message = BAD_CALLS[case]
    with pytest.raises(grpc.RpcError) as caught:
        call(running.stub)
    assert (caught.value.code().name, caught.value.details()[: len(message)]) == (code, message)
    assert contents() == before


def test_the_tables_are_as_long_as_promised():
    assert len(BAD_GROUPS) + len(BAD_CALLS) >= 60


def test_bytes_that_are_no_message_are_refused(served):
    running, contents, before = served
    for method in ("PublishRollouts", "Draft"):
        call = running.channel.stream_stream(f"/redraft.v1.DraftService/{method}")
        with pytest.raises(grpc.RpcError):
            list(call(iter([b"\xff\xff\xff not a message"]), timeout=20))
    for method in ("GetStats", "Forget", "ReportAcceptance", "NoSuchMethod"):
        with pytest.raises(grpc.RpcError):
            running.channel.unary_unary(f"/redraft.v1.DraftService/{method}")(b"\xff\xff\xff", timeout=20)
    assert contents() == before


def test_a_message_above_the_limit_is_refused(start):
    running = start(limits=LimitsConfig(message_bytes=1 << 20), chunk_bytes=1 << 16)
    big = group(responses=[response(bytes(2 << 20))])
    with pytest.raises(grpc.RpcError) as caught:
        running.stub.PublishRollouts(iter([message(big, run=run())]), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not running.stub.GetStats(stats_pb2.GetStatsRequest(), timeout=20).runs
