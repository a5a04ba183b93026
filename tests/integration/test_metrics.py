"""What the metrics port shows: Prometheus metrics, the status page, health; and who may see it."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
import urllib.error
import urllib.request
from xml.etree import ElementTree

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from redraft.client import Credentials, DraftClient
from redraft.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from redraft.server import ServerConfig
from redraft.server.security import SecurityConfig
from redraft.v1 import common_pb2, drafting_pb2, index_pb2, publish_pb2, stats_pb2
from redraft.wire import tokens_to_bytes

TOKEN = "a-token-of-more-than-16-characters"


def fetch(address: str, path: str = "/metrics", *, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Return the status and body of one request."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def read(address: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return (name, labels) -> value of all samples."""
    status, text = fetch(address)
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def metered(start):
    return start(metrics_address="127.0.0.1:0")


@pytest.fixture
def published(metered, publisher, group):
    publish = publisher(metered.address)
    publish.publish([*group(0, 4), *group(1, 4)])
    assert publish.flush(20)
    return metered


def test_there_is_no_metrics_port_unless_it_is_asked_for(running):
    assert running.server.metrics_address == ""


def test_published_responses_are_counted(published):
    samples = read(published.server.metrics_address)
    assert value(samples, "redraft_ingested_groups_total") == 2
    assert value(samples, "redraft_ingested_tokens_total") == 8 * 40
    assert value(samples, "redraft_ingested_responses_total", outcome="stored") == 8
    assert value(samples, "redraft_ingested_responses_total", outcome="replaced") == 0
    assert value(samples, "redraft_store_bytes") > 0
    assert value(samples, "redraft_store_free_bytes") > 0
    assert value(samples, "redraft_call_seconds_count", method="PublishRollouts", code="OK") >= 1


def test_indexes_are_counted_by_outcome(published, source, rollout, eventually):
    prompt = rollout(0).prompt_token_ids
    for _ in range(2):
        drafts = source(published.address)
        drafts.prefetch(prompt)
        assert drafts.wait(20)
    drafts.prefetch(prompt)  # the revision that it holds
    drafts.prefetch(rollout(5).prompt_token_ids)  # never published
    assert drafts.wait(20)
    eventually(
        lambda: value(
            read(published.server.metrics_address), "redraft_index_requests_total", outcome="absent"
        )
    )
    samples = read(published.server.metrics_address)
    assert value(samples, "redraft_index_requests_total", outcome="miss") == 1
    assert value(samples, "redraft_index_requests_total", outcome="hit") == 1
    assert value(samples, "redraft_index_requests_total", outcome="not_modified") == 1
    assert value(samples, "redraft_index_build_seconds_count") == 1
    assert value(samples, "redraft_indexes") == 1
    size = value(samples, "redraft_index_bytes")
    assert 0 < size <= value(samples, "redraft_index_budget_bytes")
    assert value(samples, "redraft_sent_index_bytes_total") == 2 * size


def test_refused_groups_and_calls_are_counted_by_code(metered):
    bad = publish_pb2.PublishRolloutsRequest(run=common_pb2.Run(name="run"), groups=[publish_pb2.Group()])
    assert metered.stub.PublishRollouts(iter([bad]), timeout=20).outcomes[0].code == 3
    with pytest.raises(grpc.RpcError):
        list(
            metered.stub.FetchIndex(index_pb2.FetchIndexRequest(run=common_pb2.Run(name="none")), timeout=20)
        )
    samples = read(metered.server.metrics_address)
    assert value(samples, "redraft_refused_groups_total", code="INVALID_ARGUMENT") == 1
    assert value(samples, "redraft_call_seconds_count", method="FetchIndex", code="NOT_FOUND") == 1


def test_names_that_clients_invent_do_not_become_labels(start):
    running = start(metrics_address="127.0.0.1:0", security=SecurityConfig(token=TOKEN))
    for i in range(5):
        with pytest.raises(grpc.RpcError):
            running.channel.unary_unary(f"/invented/Method{i}")(b"", timeout=20)
    samples = read(running.server.metrics_address)
    assert value(samples, "redraft_call_seconds_count", method="other", code="UNAUTHENTICATED") == 5
    assert "Method" not in fetch(running.server.metrics_address)[1]


def test_open_streams_are_a_level(published, rollout, eventually):
    def level() -> float:
        return value(read(published.server.metrics_address), "redraft_open_calls", method="Draft")

    stop = threading.Event()

    def messages():
        ask = drafting_pb2.DraftRequest(run=common_pb2.Run(name="run"))
        ask.open.add(id=1, prompt=common_pb2.Prompt(token_ids=tokens_to_bytes(rollout().prompt_token_ids)))
        yield ask
        stop.wait(20)

    call = published.stub.Draft(messages())
    next(call)
    assert level() == 1
    stop.set()
    call.cancel()
    eventually(lambda: level() == 0)


def test_acceptance_that_workers_report_is_shown(metered):
    report(metered, "run", epoch=0, steps=100, emitted=150)
    report(metered, "run", epoch=1, steps=200, emitted=450)
    samples = read(metered.server.metrics_address)
    assert value(samples, "redraft_verify_steps_total", run="run") == 200
    assert value(samples, "redraft_emitted_tokens_total", run="run") == 450
    assert value(samples, "redraft_drafted_tokens_total", run="run", source="history") == 400
    assert value(samples, "redraft_accepted_tokens_total", run="run", source="history") == 250


def report(server, run: str, *, epoch: int, steps: int, emitted: int) -> None:
    source = common_pb2.SourceAcceptance(source="history", drafted=[2 * steps], accepted=[emitted - steps])
    server.stub.ReportAcceptance(
        stats_pb2.ReportAcceptanceRequest(
            run=run,
            worker="worker",
            epoch=epoch,
            acceptance=common_pb2.Acceptance(steps=steps, emitted=emitted, sources=[source]),
        ),
        timeout=20,
    )


def test_two_servers_in_one_process_count_for_themselves(start, publisher, group):
    one, other = start(metrics_address="127.0.0.1:0"), start(metrics_address="127.0.0.1:0")
    publish = publisher(one.address)
    publish.publish(group(0, 4))
    assert publish.flush(20)
    assert value(read(one.server.metrics_address), "redraft_ingested_groups_total") == 1
    assert value(read(other.server.metrics_address), "redraft_ingested_groups_total") == 0


def test_the_status_page_shows_runs_with_a_plot_and_escapes_their_names(published):
    evil = '<script>alert("x")</script>&'
    report(published, evil, epoch=0, steps=100, emitted=150)
    report(published, evil, epoch=1, steps=200, emitted=450)
    status, page = fetch(published.server.metrics_address, "/")
    assert status == 200
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;" in page
    assert "<td>320</td>" in page  # the tokens of "run"
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + len("</svg>")])
    (line,) = svg.findall("polyline")
    first, last = (tuple(map(float, point.split(","))) for point in line.attrib["points"].split())
    assert first[0] < last[0]
    assert first[1] > last[1]  # SVG counts downwards: the second epoch is better
    assert [title.text for title in svg.iter("title")] == [
        "epoch 0: 1.50 tokens a step",
        "epoch 1: 3.00 tokens a step",
    ]


def test_a_server_without_runs_has_a_page_too(metered):
    assert "Nothing was published yet." in fetch(metered.server.metrics_address, "/")[1]


def test_readiness_follows_the_server_and_liveness_the_process(metered):
    address = metered.server.metrics_address
    assert fetch(address, "/healthz") == (200, "ok\n")
    assert fetch(address, "/readyz") == (200, "ready\n")
    metered.server._health.enter_graceful_shutdown()
    assert fetch(address, "/healthz")[0] == 200
    assert fetch(address, "/readyz") == (503, "not ready\n")
    metered.server.stop(0.5)
    with pytest.raises(ConnectionError):
        fetch(address, "/healthz")


def test_a_server_that_drains_is_not_ready_but_alive(published, eventually):
    address = published.server.metrics_address
    release = threading.Event()

    def messages():
        yield drafting_pb2.DraftRequest(run=common_pb2.Run(name="run"))
        release.wait(60)

    call = published.stub.Draft(messages())
    next(call)
    stopping = threading.Thread(target=published.server.stop, args=(60.0,))
    stopping.start()
    eventually(lambda: fetch(address, "/readyz")[0] == 503)
    assert fetch(address, "/healthz")[0] == 200
    assert list(release.set() or call) == []  # the stream may finish
    stopping.join(60)
    with pytest.raises(ConnectionError):
        fetch(address, "/healthz")


def test_nothing_can_be_changed_or_found_through_the_port(metered):
    address = metered.server.metrics_address
    for method in ("POST", "PUT", "DELETE"):
        assert fetch(address, "/", method=method)[0] == 405
    assert fetch(address, "/etc/passwd")[0] == 404
    assert fetch(address, "/", method="HEAD") == (200, "")
    assert fetch(address, "/metrics", method="HEAD") == (200, "")


def test_the_port_must_be_free_and_well_formed(start, metered):
    with pytest.raises(AlreadyExists, match=r"^metrics_address: "):
        start(metrics_address=metered.server.metrics_address)
    with pytest.raises(InvalidArgument, match=r"^metrics_address: '9464' is not host:port"):
        ServerConfig(metrics_address="9464")
    with pytest.raises(FailedPrecondition, match=r"^metrics_address: 0\.0\.0\.0:1 .*not encrypted"):
        ServerConfig(metrics_address="0.0.0.0:1")


def test_beyond_this_machine_it_asks_for_the_token(start):
    running = start(metrics_address="0.0.0.0:0", insecure=True, security=SecurityConfig(token=TOKEN))
    address = f"127.0.0.1:{running.server.metrics_address.rpartition(':')[2]}"
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    for path in ("/", "/metrics"):
        for wrong in ("", "Bearer x", TOKEN, "Basic !", f"Basic {base64.b64encode(b'x:y').decode()}"):
            assert fetch(address, path, Authorization=wrong)[0] == 401
        for right in (f"Bearer {TOKEN}", f"Basic {basic}"):
            assert fetch(address, path, Authorization=right)[0] == 200
    assert fetch(address, "/healthz")[0] == 200


def test_beyond_this_machine_it_speaks_tls(start, certificates):
    server, ca = certificates["server"], certificates["ca"].certificate
    security = SecurityConfig(certificate=server.certificate, key=server.key, token=TOKEN)
    running = start(metrics_address="0.0.0.0:0", security=security)
    port = running.server.metrics_address.rpartition(":")[2]
    ask = urllib.request.Request(
        f"https://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    trusting = ssl.create_default_context(cafile=ca)
    with urllib.request.urlopen(ask, timeout=20, context=trusting) as answer:
        assert b"redraft_build" in answer.read()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(ask, timeout=20)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        fetch(f"127.0.0.1:{port}")


def test_no_secret_and_no_token_id_is_shown(start, publisher, group):
    running = start(metrics_address="127.0.0.1:0", security=SecurityConfig(token=TOKEN))
    publish = publisher(running.address, credentials=Credentials(token=TOKEN))
    publish.publish(group(0, 4))
    assert publish.flush(20)
    for path in ("/", "/metrics"):
        assert TOKEN not in fetch(running.server.metrics_address, path)[1]


def test_the_command_serves_it(process):
    server = process()
    server.flags = ("--metrics-address", "127.0.0.1:0", "--log-format", "json")
    server.start()
    with DraftClient(server.address) as client:
        assert client.stats().server.version
    channel = grpc.insecure_channel(server.address)
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    channel.close()
    status, log = server.stop()
    assert status == 0
    events = [json.loads(line) for line in log.splitlines()]
    assert [each["event"] for each in events] == ["metrics served", "listening", "draining", "stopped"]
    assert events[1]["address"] == server.address
    assert events[1]["encrypted"] is False
    assert {each["level"] for each in events} == {"INFO"}
    assert all(each["time"] for each in events)
