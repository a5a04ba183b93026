"""Servers that are missing, die, come back or send rubbish: it costs drafts, never training."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redraft.client import AcceptanceReporter, Counters, DraftClient, choose
from redraft.errors import AlreadyExists, FailedPrecondition, Unavailable
from redraft.server import ServerConfig, create_server
from redraft.v1 import index_pb2, service_pb2_grpc, stats_pb2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def held(address: str) -> int:
    with DraftClient(address) as client:
        return sum(run.responses for run in client.stats().runs)


def test_clients_outlive_a_server_that_comes_late(start, publisher, source, group, eventually, caplog):
    address = f"127.0.0.1:{free_port()}"
    publish, drafts = publisher(address), source(address)
    reporter = AcceptanceReporter([address], run="run", worker="w", interval=0.0)
    with caplog.at_level(logging.WARNING, logger="redraft"):
        publish.publish(group())
        drafts.prefetch(group()[0].prompt_token_ids)
        reporter.report(Counters(steps=1, emitted=1))
        eventually(lambda: publish.stats().retries >= 2 and drafts.stats().unavailable >= 2)
        assert reporter.flush(20)
    assert drafts.get(group()[0].prompt_token_ids) is None
    assert not drafts.available
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3, warnings  # one each, however many tries
    running = start(address=address)
    assert publish.flush(30)
    assert drafts.wait(30)
    assert drafts.available
    drafts.prefetch(group()[0].prompt_token_ids)
    assert drafts.wait(30)
    assert drafts.get(group()[0].prompt_token_ids).num_responses == 4
    reporter.report(Counters(steps=2, emitted=2))
    assert reporter.flush(20)
    assert running.stub.GetStats(stats_pb2.GetStatsRequest(), timeout=20).runs[0].acceptance.steps == 2
    reporter.close()


def test_fetched_indexes_keep_serving_after_the_server_died(process, publisher, source, group):
    server = process()
    address = server.start()
    publish, drafts = publisher(address), source(address)
    publish.publish(group())
    assert publish.flush(20)
    drafts.prefetch(group()[0].prompt_token_ids)
    assert drafts.wait(20)
    server.stop(signal.SIGKILL)
    drafts.prefetch(group()[0].prompt_token_ids)
    assert not drafts.wait(0.2)
    assert drafts.get(group()[0].prompt_token_ids).num_responses == 4


def test_a_dead_shard_costs_only_its_own_prompts(start, publisher, source, rollout, eventually):
    running = start()
    addresses = [running.address, f"127.0.0.1:{free_port()}"]
    publish, drafts = publisher(*addresses), source(*addresses)
    rollouts = [rollout(prompt) for prompt in range(30)]
    served = [each for each in rollouts if choose(addresses, each.key) == running.address]
    publish.publish(rollouts)
    eventually(lambda: publish.stats().published == len(served) and publish.stats().retries > 0)
    assert publish.stats().pending == 30 - len(served)
    for each in rollouts:
        drafts.prefetch(each.prompt_token_ids)
    eventually(lambda: drafts.stats().fetched == len(served) and drafts.stats().unavailable > 0)
    assert all(drafts.get(each.prompt_token_ids) is not None for each in served)
    assert 0 < len(served) < 30
    publish.close(timeout=0.0)
    assert publish.stats().dropped == 30 - len(served)
    assert publish.stats().pending == 0


def test_everything_acknowledged_survives_kill_9_exactly_once(process, publisher, rollout, eventually):
    server = process()
    address = server.start()
    publish = publisher(address)
    total = 0
    for round_ in range(3):
        published = publish.stats().published
        for prompt in range(100):
            publish.publish([rollout(prompt, sample, step=round_) for sample in range(4)])
        total += 400
        eventually(lambda before=published: publish.stats().published > before)
        acknowledged = publish.stats().published
        server.stop(signal.SIGKILL)
        server.start()
        assert held(address) >= acknowledged
    assert publish.flush(60)
    assert publish.stats().published == total
    assert held(address) == total


def test_a_terminated_server_finishes_and_starts_again(process, publisher, group):
    server = process()
    address = server.start()
    publish = publisher(address)
    publish.publish(group())
    assert publish.flush(20)
    status, log = server.stop(signal.SIGTERM)
    assert status == 0
    assert "Traceback" not in log
    assert server.start() == address
    assert held(address) == 4


def test_a_full_queue_drops_the_oldest_and_says_so_once(publisher, rollout, caplog):
    publish = publisher(f"127.0.0.1:{free_port()}", max_pending_bytes=10_000, linger=30.0)
    with caplog.at_level(logging.WARNING, logger="redraft"):
        for sample in range(100):
            publish.publish([rollout(sample=sample)])
    stats = publish.stats()
    assert stats.dropped > 0
    assert stats.pending + stats.dropped == 100
    assert stats.pending_bytes <= 10_000
    assert sum("dropping" in record.getMessage() for record in caplog.records) == 1


def test_publishing_after_close_is_counted_not_raised(running, publisher, rollout):
    publish = publisher(running.address)
    publish.close()
    publish.publish([rollout()])
    assert publish.stats().dropped == 1


def test_two_servers_cannot_share_a_data_directory(running):
    config = ServerConfig(address="127.0.0.1:0", data_directory=running.config.data_directory)
    with pytest.raises(
        AlreadyExists, match=r"^data_directory: .* is in use by another redraft process \(pid \d+\)"
    ):
        create_server(config)


def test_two_servers_cannot_share_a_port(running, tmp_path):
    with pytest.raises(AlreadyExists, match=r"^address: cannot listen on"):
        create_server(ServerConfig(address=running.address, data_directory=tmp_path / "other"))
    create_server(ServerConfig(address="127.0.0.1:0", data_directory=tmp_path / "other"))[0].stop(
        0
    )  # lock let go


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:50061"])
def test_listening_beyond_this_machine_needs_a_flag(address):
    with pytest.raises(FailedPrecondition, match=r"^address: .*--insecure"):
        ServerConfig(address=address)
    assert ServerConfig(address=address, insecure=True).address == address


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.9.9.9:1", "localhost:0", "[::1]:0"])
def test_loopback_needs_no_flag(address):
    assert ServerConfig(address=address).address == address


def test_health_and_reflection_answer(running):
    stub = health_pb2_grpc.HealthStub(running.channel)
    for name in ("", "redraft.v1.DraftService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(
        iter(reflection_pb2_grpc.ServerReflectionStub(running.channel).ServerReflectionInfo(iter([asked])))
    )
    assert "redraft.v1.DraftService" in {each.name for each in answer.list_services_response.service}


def test_an_unreachable_server_is_unavailable():
    with DraftClient(f"127.0.0.1:{free_port()}", timeout=2.0) as client, pytest.raises(Unavailable):
        client.stats()


class Liar(service_pb2_grpc.DraftServiceServicer):
    """A server that answers FetchIndex with what it is told to."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.revisions = []
        self.lock = threading.Lock()

    def FetchIndex(self, request, context):  # noqa: N802
        with self.lock:
            self.revisions.append(request.prompts[0].revision)
            answer = self.answers.pop(0)
        yield from answer


def sent(blob: bytes, *, revision: int = 5, total: int | None = None, chunks: int = 1):
    header = index_pb2.IndexHeader(
        outcome=index_pb2.IndexHeader.OUTCOME_SENT,
        revision=revision,
        total_bytes=len(blob) if total is None else total,
    )
    size = max(len(blob) // chunks, 1)
    pieces = [blob[i : i + size] for i in range(0, len(blob), size)]
    return [
        index_pb2.FetchIndexResponse(header=header),
        *[index_pb2.FetchIndexResponse(chunk=piece) for piece in pieces],
    ]


@pytest.fixture
def lie():
    servers = []

    def start(*answers) -> tuple[Liar, str]:
        server = grpc.server(futures.ThreadPoolExecutor(4))
        liar = Liar(answers)
        service_pb2_grpc.add_DraftServiceServicer_to_server(liar, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return liar, f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


@pytest.fixture
def blob(running, publisher, rollout) -> bytes:
    """Return the bytes of a real index."""
    publish = publisher(running.address)
    publish.publish([rollout()])
    assert publish.flush(20)
    from redraft.v1 import common_pb2
    from redraft.wire import tokens_to_bytes

    prompt = common_pb2.Prompt(token_ids=tokens_to_bytes(rollout().prompt_token_ids))
    request = index_pb2.FetchIndexRequest(
        run=common_pb2.Run(name="run"), prompts=[index_pb2.WantedIndex(prompt=prompt)]
    )
    return b"".join(part.chunk for part in running.stub.FetchIndex(request, timeout=20))


def flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 0x40]) + blob[at + 1 :]


def test_a_corrupt_index_is_fetched_once_more(lie, source, rollout, blob):
    liar, address = lie(sent(flipped(blob, len(blob) // 2)), sent(blob))
    drafts = source(address)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids).num_responses == 1
    assert drafts.stats().corrupt == 1
    assert liar.revisions == [0, 0]


def test_a_source_that_waits_for_a_silent_server_is_closed_at_once_and_without_a_word(
    lie, source, rollout, eventually, caplog
):
    silence = threading.Event()
    liar, address = lie(iter(silence.wait, True))
    drafts = source(address)
    threads = [thread for thread in threading.enumerate() if thread.name == f"redraft-fetch-{address}"]
    drafts.prefetch(rollout().prompt_token_ids)
    eventually(lambda: liar.revisions)
    drafts.close()
    eventually(lambda: not any(thread.is_alive() for thread in threads))
    silence.set()
    assert threads
    assert not caplog.records


def test_an_index_that_stays_corrupt_is_given_up_until_it_changes(lie, source, rollout, blob, caplog):
    bad = sent(flipped(blob, len(blob) // 2))
    same = index_pb2.IndexHeader(outcome=index_pb2.IndexHeader.OUTCOME_NOT_MODIFIED, revision=5)
    liar, address = lie(bad, bad, [index_pb2.FetchIndexResponse(header=same)], sent(blob, revision=6))
    drafts = source(address)
    for expected in (None, None, 1):
        drafts.prefetch(rollout().prompt_token_ids)
        assert drafts.wait(20)
        index = drafts.get(rollout().prompt_token_ids)
        assert (index and index.num_responses) == expected
    assert liar.revisions == [0, 0, 5, 5]
    assert sum("corrupt" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(lambda blob: sent(blob[: len(blob) // 2], total=len(blob)), id="ends early"),
        pytest.param(lambda blob: sent(blob + b"x", total=len(blob)), id="goes on"),
        pytest.param(lambda blob: sent(blob, total=2**60), id="claims an exabyte"),
        pytest.param(lambda blob: sent(blob, total=0), id="claims nothing"),
        pytest.param(lambda blob: sent(b"", total=0), id="holds nothing"),
        pytest.param(lambda blob: sent(b"\0" * len(blob)), id="zeros"),
        pytest.param(lambda blob: sent(b"x"), id="one byte"),
        pytest.param(lambda blob: sent(flipped(blob, 0)), id="wrong magic"),
        pytest.param(lambda blob: sent(blob)[1:], id="no header"),
        pytest.param(lambda blob: [], id="no answer"),
        pytest.param(lambda blob: [index_pb2.FetchIndexResponse()], id="empty message"),
        pytest.param(
            lambda blob: [index_pb2.FetchIndexResponse(position=9, header=_none())], id="another prompt"
        ),
    ],
)
def test_rubbish_from_a_server_costs_history_only(lie, source, rollout, blob, rubbish):
    _, address = lie(rubbish(blob), rubbish(blob), sent(blob), sent(blob))
    drafts = source(address)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids) is None
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids).num_responses == 1


def _none() -> index_pb2.IndexHeader:
    return index_pb2.IndexHeader(outcome=index_pb2.IndexHeader.OUTCOME_NO_HISTORY)
