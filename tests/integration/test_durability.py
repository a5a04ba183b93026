"""What was acknowledged is there after a crash, a full disk or damage, once and byte for byte.

REDRAFT_KILL_ROUNDS sets how many times the server is killed (default 5).
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from redraft.client.channels import open_channel, open_stub
from redraft.errors import ResourceExhausted
from redraft.rollout import prompt_key
from redraft.server.history import GroupRecord, ResponseRecord
from redraft.server.sqlite_history import FILE_NAME, SqliteHistory
from redraft.v1 import common_pb2, publish_pb2
from redraft.vocabulary import Vocabulary
from redraft.wire import tokens_to_bytes

ROUNDS = int(os.environ.get("REDRAFT_KILL_ROUNDS", "5"))
RUN = common_pb2.Run(name="run")


def response_tokens(client: int, number: int, sample: int) -> np.ndarray:
    return np.random.default_rng([client, number, sample]).integers(0, 150_000, 50).astype(np.int32)


def request(client: int, number: int, *, samples: int = 4) -> publish_pb2.PublishRolloutsRequest:
    """Return the one message of a client's publication."""
    group = publish_pb2.Group(
        prompt=common_pb2.Prompt(token_ids=tokens_to_bytes([client, number % 7])),
        step=number,
        responses=[
            publish_pb2.Response(token_ids=tokens_to_bytes(response_tokens(client, number, i)), sample=i)
            for i in range(samples)
        ],
    )
    return publish_pb2.PublishRolloutsRequest(run=RUN, groups=[group])


def contents(directory: Path) -> dict[tuple[int, int, int], np.ndarray]:
    """Return (client, number, sample) -> tokens of a data directory, and see that each is there once."""
    store = SqliteHistory(directory, readonly=True)
    found: dict[tuple[int, int, int], np.ndarray] = {}
    for group in store.export(store.run("run")):
        for response in group.responses:
            identity = (int(group.prompt_token_ids[0]), group.step, response.sample)
            assert identity not in found
            found[identity] = response.token_ids
    assert store.damaged == 0
    store.close()
    return found


class Client:
    """Publishes one group after the other and remembers which were acknowledged."""

    def __init__(self, number: int, address: str) -> None:
        self.number, self.address = number, address
        self.acknowledged: list[int] = []
        self.next = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.publish)
        self.thread.start()

    def publish(self) -> None:
        channel = open_channel(self.address)
        stub = open_stub(channel)
        while not self.stop.is_set():
            try:
                answer = stub.PublishRollouts(iter([request(self.number, self.next)]), timeout=20)
            except grpc.RpcError:
                self.stop.wait(0.02)  # sent again: whether it was stored is not known
                continue
            assert [outcome.code for outcome in answer.outcomes] == [0]
            self.acknowledged.append(self.next)
            self.next += 1
        channel.close()


def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(process, eventually):
    server = process()
    address = server.start()
    clients = [Client(number, address) for number in range(4)]
    rng = random.Random(7)
    try:
        for _ in range(ROUNDS):
            before = sum(client.next for client in clients)
            eventually(
                lambda before=before: sum(client.next for client in clients) > before + rng.randrange(40)
            )
            server.stop(signal.SIGKILL)
            acknowledged = [list(client.acknowledged) for client in clients]
            found = contents(server.data)
            for client, numbers in enumerate(acknowledged):
                for number in numbers:
                    for sample in range(4):
                        expected = response_tokens(client, number, sample)
                        assert found[client, number, sample].tolist() == expected.tolist()
            # At most what each client had on the way may be there besides.
            assert len(found) <= 4 * (sum(map(len, acknowledged)) + len(clients))
            assert server.start() == address
    finally:
        for client in clients:
            client.stop.set()
        for client in clients:
            client.thread.join()
    assert len(contents(server.data)) >= 4 * sum(len(client.acknowledged) for client in clients)


def publish(address: str, *numbers: int, client: int = 0) -> list[publish_pb2.GroupOutcome]:
    channel = open_channel(address)
    try:
        messages = [request(client, number) for number in numbers]
        return list(open_stub(channel).PublishRollouts(iter(messages), timeout=20).outcomes)
    finally:
        channel.close()


def test_a_torn_last_page_costs_nothing_that_was_acknowledged(process):
    server = process()
    publish(server.start(), *range(20))
    server.stop(signal.SIGKILL)
    wal = server.data / (FILE_NAME + "-wal")
    frame = wal.read_bytes()[32 : 32 + 24 + 16384]
    with wal.open("ab") as file:
        file.write(frame[: len(frame) // 2])  # a write that the crash cut short
    server.start()
    assert len(contents(server.data)) == 80
    assert [outcome.stored for outcome in publish(server.address, 20)] == [4]


def test_damaged_records_are_skipped_and_reported_and_the_rest_is_served(process, tmp_path):
    server = process()
    publish(server.start(), *range(70))
    assert server.stop(signal.SIGTERM)[0] == 0
    database = sqlite3.connect(server.data / FILE_NAME)
    damaged = database.execute(
        "UPDATE groups SET payload = CAST(substr(payload, 1, 40) || x'ff00ff00' || substr(payload, 45) AS BLOB) "
        "WHERE step % 10 = 3"
    ).rowcount
    database.commit()
    database.close()
    assert damaged == 7
    address = server.start()
    channel = open_channel(address)
    stub = open_stub(channel)
    from redraft.v1 import index_pb2, stats_pb2

    wanted = [
        index_pb2.WantedIndex(prompt=common_pb2.Prompt(token_ids=tokens_to_bytes([0, prompt])))
        for prompt in range(7)
    ]
    answers = list(stub.FetchIndex(index_pb2.FetchIndexRequest(run=RUN, prompts=wanted), timeout=20))
    headers = [answer.header for answer in answers if answer.WhichOneof("part") == "header"]
    assert sum(header.responses for header in headers) == 4 * (70 - damaged)
    assert stub.GetStats(stats_pb2.GetStatsRequest(), timeout=20).server.damaged_records == damaged
    # Publishing again heals what was damaged.
    assert [outcome.stored for outcome in publish(address, 3)] == [4]
    channel.close()
    status, log = server.stop(signal.SIGTERM)
    assert status == 0
    assert "damaged record skipped" in log
    assert "Traceback" not in log


def test_random_damage_to_the_file_never_crashes_the_server(process):
    server = process()
    publish(server.start(), *range(70))
    server.stop(signal.SIGTERM)
    path = server.data / FILE_NAME
    clean = path.read_bytes()
    rng = random.Random(3)
    for _ in range(4):
        bad = bytearray(clean)
        for _ in range(20):
            bad[rng.randrange(100, len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        for leftover in ("-wal", "-shm"):
            (server.data / (FILE_NAME + leftover)).unlink(missing_ok=True)
        complaint = ""
        try:
            address = server.start()
        except RuntimeError as error:  # damaged beyond opening
            complaint = str(error)
        if complaint:
            assert "Error: history: " in complaint
            assert "Traceback" not in complaint
            continue
        code = None
        try:
            publish(address, *range(70, 80))
        except grpc.RpcError as error:
            code = error.code()
        assert code is not grpc.StatusCode.INTERNAL
        assert server.popen.poll() is None
        server.stop(signal.SIGTERM)


def record(number: int, tokens: int) -> GroupRecord:
    ids = np.random.default_rng(number).integers(0, 2**31 - 1, tokens).astype(np.int32)
    prompt = np.array([number], dtype=np.int32)
    return GroupRecord(prompt_key(prompt), prompt, 0, number, False, "", [ResponseRecord(0, ids)])


def test_a_full_disk_refuses_and_recovers(tmp_path):
    store = SqliteHistory(tmp_path)
    run = store.open_run("run", Vocabulary())
    assert store.append(run, [record(0, 100)]).result(20)[0].stored == 1
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own way to have a small disk
    with pytest.raises(ResourceExhausted, match="history: database or disk is full"):
        store.append(run, [record(1, 1_000_000)]).result(20)
    assert store.summary(run).responses == 1
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert store.append(run, [record(1, 1_000_000)]).result(20)[0].stored == 1
    store.close()
    store = SqliteHistory(tmp_path)
    assert store.summary(store.run("run")).tokens == 1_000_100
    store.close()


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "redraft-test", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_server_on_a_full_disk_refuses_with_its_code_and_loses_nothing(small_disk, process):
    server = process(small_disk)
    address = server.start()
    channel = open_channel(address)
    stub = open_stub(channel)
    stored, code = 0, 0
    for number in range(400):
        group = request(0, number, samples=1).groups[0]
        group.responses[0].token_ids = record(number, 10_000).responses[0].token_ids.tobytes()
        message = publish_pb2.PublishRolloutsRequest(run=RUN, groups=[group])
        try:
            outcome = stub.PublishRollouts(iter([message]), timeout=20).outcomes[0]
        except grpc.RpcError as error:
            code = error.code().value[0]
        else:
            code = outcome.code
        if code:
            break
        stored += 1
    channel.close()
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert stored > 10
    server.stop(signal.SIGKILL)
    store = SqliteHistory(small_disk, readonly=True)
    assert store.summary(store.run("run")).responses == stored
    store.close()
