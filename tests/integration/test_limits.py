"""What a host may ask of the server at once and a second; beyond it calls are refused by the limit's name."""

from __future__ import annotations

import threading
import urllib.request
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redraft.client.channels import open_channel, open_stub
from redraft.errors import InvalidArgument
from redraft.server.config import LimitsConfig
from redraft.server.interceptors import host_of
from redraft.v1 import common_pb2, drafting_pb2, stats_pb2
from redraft.wire import tokens_to_bytes


@contextmanager
def open_streams(running, count: int):
    """Hold `count` Draft streams open."""
    stop = threading.Event()

    def messages():
        yield drafting_pb2.DraftRequest(run=common_pb2.Run(name="run"))
        stop.wait(20)

    calls = [running.stub.Draft(messages()) for _ in range(count)]
    try:
        for call in calls:
            next(call)
        yield calls
    finally:
        stop.set()
        for call in calls:
            call.cancel()


def refusal(call) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value.details()


def stats(running, channel: grpc.Channel | None = None):
    stub = running.stub if channel is None else open_stub(channel)
    return stub.GetStats(stats_pb2.GetStatsRequest(), timeout=20)


def limited(start, publisher, rollout, **limits):
    running = start(limits=LimitsConfig(**limits))
    publish = publisher(running.address)
    publish.publish([rollout()])  # Draft needs a run
    assert publish.flush(20)
    return running


@pytest.mark.parametrize("limit", ["calls", "peer_calls"])
def test_calls_at_once_are_limited_streams_included(start, publisher, rollout, eventually, limit):
    running = limited(start, publisher, rollout, **{limit: 3})
    eventually(lambda: running.server._service.calls == 0)
    with open_streams(running, 3):
        assert refusal(lambda: stats(running)).startswith(f"{limit}: more than 3 calls at once")
        health = health_pb2_grpc.HealthStub(running.channel).Check(
            health_pb2.HealthCheckRequest(), timeout=20
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING  # probes are answered all the same
    eventually(lambda: running.server._service.calls == 0)
    assert stats(running).server.version


def test_draft_streams_are_limited(start, publisher, rollout):
    running = limited(start, publisher, rollout, draft_streams=2)
    with open_streams(running, 2):

        def one_more():
            next(running.stub.Draft(iter([drafting_pb2.DraftRequest(run=common_pb2.Run(name="run"))])))

        assert refusal(one_more).startswith("draft_streams: more than 2 are open")


def test_the_rate_of_calls_from_one_host_is_limited(start):
    running = start(limits=LimitsConfig(peer_call_rate=5))

    def burst():
        for _ in range(100):
            stats(running)

    assert refusal(burst) == "peer_call_rate: more than 5 calls a second from one host; try again later"


def test_the_rate_of_new_connections_from_one_host_is_limited(start):
    running = start(limits=LimitsConfig(peer_connection_rate=2))
    assert stats(running).server.version
    channels = []

    def burst():
        for _ in range(100):
            channels.append(open_channel(running.address))
            stats(running, channels[-1])

    try:
        assert refusal(burst).startswith("peer_connection_rate: more than 2 new connections a second")
        assert stats(running).server.version  # connections that are known go on
    finally:
        for channel in channels:
            channel.close()


def test_refused_calls_are_counted_by_limit(start):
    running = start(limits=LimitsConfig(peer_call_rate=1), metrics_address="127.0.0.1:0")
    stats(running), stats(running)
    refusal(lambda: [stats(running) for _ in range(100)])
    with urllib.request.urlopen(f"http://{running.server.metrics_address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    assert 'redraft_refused_calls_total{limit="peer_call_rate"} 1.0' in text


@pytest.mark.parametrize(
    "limit", ["calls", "peer_calls", "peer_call_rate", "peer_connection_rate", "draft_streams"]
)
def test_a_limit_of_nothing_is_refused_by_name(limit):
    with pytest.raises(InvalidArgument, match=rf"^{limit}: must be positive, got 0"):
        LimitsConfig(**{limit: 0})


def test_a_host_is_an_address_without_its_port():
    assert host_of("ipv4:10.0.0.1:1234") == "ipv4:10.0.0.1"
    assert host_of("ipv6:[::1]:1234") == "ipv6:[::1]"
    assert host_of("unix:/run/redraft.sock") == "unix:/run/redraft.sock"


@pytest.mark.parametrize(("idle_bytes", "drafted"), [(1 << 20, 5), (1, 0)])
def test_finished_groups_serve_later_siblings_within_their_memory(
    start, publisher, rollout, idle_bytes, drafted
):
    running = limited(start, publisher, rollout, draft_idle_bytes=idle_bytes)
    group = rollout(prompt=7, sample=1)  # without history; sample 0 repeats its prompt
    prompt = common_pb2.Prompt(token_ids=tokens_to_bytes(group.prompt_token_ids))
    text = group.response_token_ids

    def steps():
        for number, (known, horizon) in enumerate([(text, 0), (text[:12], 5)]):
            yield drafting_pb2.DraftRequest(
                run=common_pb2.Run(name="run"),
                open=[drafting_pb2.OpenRequest(id=number, prompt=prompt)],
                advance=[
                    drafting_pb2.AdvanceRequest(id=number, token_ids=tokens_to_bytes(known), horizon=horizon)
                ],
                close=[number],
            )

    answers = list(running.stub.Draft(steps(), timeout=20))
    assert len(answers[1].drafts[0].token_ids) == 4 * drafted
