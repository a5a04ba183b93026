"""What siblings write reaches the other workers of their group, each token once, over real channels."""

from __future__ import annotations

import logging
import queue
import socket
import threading

import numpy as np
import pytest

from redraft import LiveIndex
from redraft.client import Relay
from redraft.client.relay_groups import GAP
from redraft.errors import InvalidArgument
from redraft.server.config import LimitsConfig, RelayConfig
from redraft.v1 import common_pb2, relay_pb2

PROMPT = np.arange(1, 9, dtype=np.int32)
TEXT = np.arange(100, 200, dtype=np.int32)


class Worker:
    """A worker with one group: its relay, and the live index that only others write to here."""

    def __init__(self, *addresses: str, prompt=PROMPT, group_id: str = "", **options) -> None:
        self.relay = Relay(addresses, **({"run": "run", "interval": 0.002} | options))
        self.prompt, self.group_id = prompt, group_id
        self.live = LiveIndex(prompt)

    def begin(self, sequence: int = 0, token_ids=None) -> None:
        self.relay.begin(sequence, self.prompt, self.live, token_ids, group_id=self.group_id)

    def write(self, token_ids, sequence: int = 0) -> None:
        ids = np.asarray(token_ids, np.int32)
        self.relay.advance(np.array([sequence], np.int32), ids, np.array([0, len(ids)], np.int32))

    @property
    def heard(self) -> int:
        """Tokens of others, marks of gaps included."""
        return self.live.num_tokens - len(self.prompt)

    def knows(self, token_ids) -> bool:
        return self.live.match_length(np.asarray(token_ids, np.int32)) == len(token_ids)


@pytest.fixture
def worker():
    made: list[Worker] = []

    def make(*addresses: str, **options) -> Worker:
        made.append(Worker(*addresses, **options))
        return made[-1]

    yield make
    for each in made:
        each.relay.close()


def test_a_worker_hears_what_a_sibling_elsewhere_writes(running, worker, eventually):
    a, b = worker(running.address), worker(running.address)
    a.begin()
    b.begin()
    a.write(TEXT[:10])
    eventually(lambda: b.heard == 10)
    a.write(TEXT[10:20])
    eventually(lambda: b.heard == 20)
    assert b.knows([*PROMPT[-3:], *TEXT[:20]])
    b.write([5, 6, 7])
    eventually(lambda: a.knows([*PROMPT[-1:], 5, 6, 7]))
    assert (a.heard, b.heard) == (3, 20)
    assert (a.relay.stats().sent_tokens, a.relay.stats().received_tokens) == (20, 3)


def test_every_token_comes_once_however_many_workers_and_siblings_there_are(running, worker, eventually):
    workers = [worker(running.address) for _ in range(4)]
    for at, each in enumerate(workers):
        for sequence in range(3):
            each.begin(sequence, TEXT[: at + 1])
    for step in range(20):
        for each in workers:
            each.relay.advance(
                np.arange(3, dtype=np.int32),
                np.arange(3 * step, 3 * step + 6, dtype=np.int32),
                np.array([0, 1, 3, 6], np.int32),
            )
    whole = [3 * (at + 1) + 20 * 6 for at in range(4)]
    eventually(lambda: [each.heard for each in workers] == [sum(whole) - own for own in whole])
    assert [each.relay.stats().gaps for each in workers] == [0] * 4
    eventually(lambda: running.server._service.relay.counts().received_tokens == sum(whole))
    assert running.server._service.relay.counts().sent_tokens == 3 * sum(whole)


def test_a_worker_that_comes_late_hears_all_of_it(running, worker, eventually):
    a = worker(running.address)
    a.begin(token_ids=TEXT[:30])
    a.write(TEXT[30:40])
    eventually(lambda: a.relay.stats().connected == 1)
    assert a.relay.stats().sent_tokens == 0  # nobody else serves the group
    b = worker(running.address)
    b.begin()
    eventually(lambda: b.heard == 40)
    c = worker(running.address)
    c.begin()
    eventually(lambda: c.heard == 40)
    assert a.relay.stats().sent_tokens == 40
    assert b.heard == 40
    assert c.knows([*PROMPT[-1:], *TEXT[:40]])


@pytest.mark.parametrize(
    "other",
    [{"prompt": PROMPT[1:]}, {"run": "other"}, {"group_id": "other"}],
    ids=["prompt", "run", "group id"],
)
def test_groups_are_kept_apart(running, worker, eventually, other):
    a, b, stranger = worker(running.address), worker(running.address), worker(running.address, **other)
    for each in (a, b, stranger):
        each.begin()
    eventually(lambda: stranger.relay.stats().connected == 1)
    a.write(TEXT)
    stranger.write(TEXT[:10])
    eventually(lambda: b.heard == 100)
    assert stranger.heard == 0
    assert a.heard == 0


def test_a_group_that_ended_is_left_with_its_last_words(running, worker, eventually):
    a, b = worker(running.address), worker(running.address)
    a.begin()
    b.begin()
    eventually(lambda: a.relay.stats().shared_groups == 1)
    a.write(TEXT[:50])
    a.relay.end(0)
    eventually(lambda: b.heard == 50)
    eventually(lambda: a.relay.stats().groups == 0 and b.relay.stats().shared_groups == 0)
    b.write(TEXT[:9])
    a.begin(0)  # the same number for another sibling
    a.write(TEXT[90:])
    eventually(lambda: b.heard == 60)
    eventually(lambda: a.heard == 9)
    assert b.knows([*PROMPT[-1:], *TEXT[90:]])


def test_a_server_that_dies_and_comes_back_costs_no_token_twice(process, worker, eventually, caplog):
    server = process()
    address = server.start()
    a, b = worker(address), worker(address)
    a.begin()
    b.begin()
    a.write(TEXT[:20])
    eventually(lambda: b.heard == 20)
    with caplog.at_level(logging.WARNING, logger="redraft"):
        server.popen.kill()
        server.popen.communicate()
        eventually(lambda: a.relay.stats().failures > 1)
    assert len(caplog.records) == 2, [record.getMessage() for record in caplog.records]  # one each
    a.write(TEXT[20:40])
    assert (a.relay.stats().connected, a.relay.stats().shared_groups) == (0, 0)
    server.start()
    eventually(lambda: b.heard == 40)
    assert b.knows([*PROMPT[-1:], *TEXT[:40]])
    assert b.relay.stats().gaps == 0


def test_without_a_server_nothing_waits_and_nothing_is_lost_locally(worker, eventually):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    a = worker(f"127.0.0.1:{port}")
    a.begin()
    for _ in range(100):
        a.write(TEXT)
    eventually(lambda: a.relay.stats().failures > 0)
    a.relay.end(0)
    eventually(lambda: a.relay.stats().groups == 0)
    assert a.relay.stats().dropped_tokens == 0  # nobody wanted them


def test_a_stopping_server_does_not_wait_for_workers(start, worker, eventually):
    running = start()
    a = worker(running.address)
    a.begin()
    eventually(lambda: a.relay.stats().connected == 1)
    stopped = threading.Thread(target=running.server.stop, args=(60.0,))
    stopped.start()
    eventually(lambda: a.relay.stats().failures > 0)
    stopped.join(30)
    assert not stopped.is_alive()


def test_text_that_goes_on_behind_lost_tokens_is_not_glued_together(start, worker, eventually):
    running = start(relay=RelayConfig(group_tokens=64))
    a, b = worker(running.address), worker(running.address)
    a.begin()
    b.begin()
    a.write(TEXT[:40])
    eventually(lambda: b.heard == 40)
    a.write(TEXT[40:80])  # the server forgets the first forty
    eventually(lambda: b.heard == 80)
    late = worker(running.address)
    late.begin()
    eventually(lambda: late.heard == 41)
    assert late.relay.stats().gaps == 1
    assert late.live.count(np.array([GAP], np.int32)) == 1
    assert not late.knows([PROMPT[-1], TEXT[40]])
    assert late.knows(TEXT[40:80])
    a.write(TEXT[80:])
    eventually(lambda: late.heard == 61)
    assert late.knows(TEXT[40:])
    assert b.relay.stats().gaps == 0


def test_a_worker_that_does_not_take_its_messages_loses_the_oldest_and_is_told(start, worker, eventually):
    running = start(relay=RelayConfig(group_tokens=30_000), limits=LimitsConfig(response_tokens=1 << 30))
    messages: queue.SimpleQueue = queue.SimpleQueue()
    prompt = common_pb2.Prompt(token_ids=PROMPT.astype("<u4").tobytes())
    joined = [relay_pb2.RelayGroup(prompt=prompt)]
    messages.put(relay_pb2.RelayRequest(run=common_pb2.Run(name="run"), worker=7, join=joined))
    slow = running.stub.RelayLive(iter(messages.get, None), timeout=60)
    fast = worker(running.address, group_tokens=1 << 30)
    fast.begin()
    a = worker(running.address)
    a.begin()
    # As long as nobody reads, gRPC takes what its windows hold; what comes after that is up to the server.
    total = 0
    while running.server._service.relay.counts().dropped_tokens == 0:
        a.write(np.arange(20_000, dtype=np.int32))
        total += 20_000
        eventually(lambda whole=total: fast.heard == whole)
    a.write(TEXT)
    total += 100
    eventually(lambda whole=total: fast.heard == whole)
    assert fast.relay.stats().gaps == 0
    dropped, last = 0, 0
    for response in slow:
        dropped = response.dropped
        for tokens in response.tokens:
            last = tokens.offsets[-1] + tokens.lengths[-1]
        if last == total:
            break
    assert dropped > 0


def test_a_backlog_beyond_the_limit_loses_its_oldest_tokens(running, worker, eventually):
    a = worker(running.address, backlog_tokens=30)
    a.begin(token_ids=TEXT)
    b = worker(running.address)
    b.begin()
    eventually(lambda: b.heard == 31)
    assert a.relay.stats().dropped_tokens == 70
    assert b.knows(TEXT[70:])
    assert b.relay.stats().gaps == 1


def test_groups_move_when_the_addresses_change(start, worker, eventually):
    first, second = start(), start()
    a, b = worker(first.address), worker(first.address)
    a.begin()
    b.begin()
    a.write(TEXT[:10])
    eventually(lambda: b.heard == 10)
    for each in (a, b):
        each.relay.set_addresses([second.address])
    a.write(TEXT[10:20])
    eventually(lambda: b.heard == 20)
    eventually(lambda: first.server._service.relay.counts().streams == 0)
    assert b.relay.stats().gaps == 0
    assert second.server._service.relay.counts().shared_groups == 1
    with pytest.raises(InvalidArgument, match=r"^addresses: "):
        a.relay.set_addresses(["nowhere"])
