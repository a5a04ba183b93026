"""The proposer with draft servers: history that others published, and what happens when a server is not there."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest

from redraft.client import DraftClient, Publisher
from redraft.recipe.vllm import proposer as proposer_module
from redraft.rollout import Rollout
from redraft.server import ServerConfig, create_server

PROMPT = [11, 12, 13, 14, 15]
TEXT = list(range(100, 140))


@pytest.fixture
def server(tmp_path):
    """A draft server in this process: its address, and the server."""
    server, port = create_server(ServerConfig(address="127.0.0.1:0", data_directory=tmp_path / "data"))
    server.start()
    yield f"127.0.0.1:{port}", server
    server.stop(0)


def publish(address: str, prompt: list[int], response: list[int], epoch: int = 0) -> None:
    publisher = Publisher([address], run="default")
    rollout = Rollout(
        np.array(prompt, np.int32), np.array(response, np.int32), epoch=epoch, step=epoch, sample=0
    )
    publisher.publish([rollout])
    assert publisher.flush(20)
    publisher.close()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_published_history_is_drafted_from_once_it_has_arrived(server, make_runner):
    address, _ = server
    publish(address, PROMPT, TEXT)
    runner = make_runner(addresses=address)
    runner.add("a", PROMPT)
    runner.step(a=[TEXT[0]])
    wait_for(lambda: runner.proposer._source.num_bytes > 0)
    assert runner.step(a=[TEXT[1]])["a"] == TEXT[2:6]


def test_history_published_during_a_rollout_reaches_it(server, make_runner, monkeypatch):
    monkeypatch.setattr(proposer_module, "REFRESH_SECONDS", 0.05)
    address, _ = server
    runner = make_runner(addresses=address, report_seconds=0.02)
    runner.add("a", PROMPT)
    runner.step(a=[TEXT[0]])
    publish(address, PROMPT, TEXT)
    wait_for(lambda: runner.proposer._source.num_bytes > 0)
    assert runner.step(a=[TEXT[1]])["a"] == TEXT[2:6]


def test_accept_counts_reach_the_server(server, make_runner):
    address, _ = server
    publish(address, PROMPT, TEXT)
    runner = make_runner(addresses=address, report_seconds=0.05)
    runner.add("a", PROMPT)
    runner.step(a=[TEXT[0]])
    wait_for(lambda: runner.proposer._source.num_bytes > 0)
    runner.step(a=[TEXT[1]])
    runner.step(a=[*TEXT[2:5], 300])
    client = DraftClient(address)

    def reported() -> bool:
        counts = client.stats("default").runs[0].acceptance
        history = {source.source: source for source in counts.sources}.get("history")
        return counts.emitted == 6 and history is not None and list(history.accepted)[:4] == [1, 1, 1, 0]

    wait_for(reported)


def test_without_a_server_siblings_still_draft_and_nothing_waits(make_runner):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    runner = make_runner(addresses=f"127.0.0.1:{port}")
    runner.add("a", PROMPT)
    runner.add("b", PROMPT)
    assert runner.step(a=TEXT[:10], b=TEXT[:3])["b"] == TEXT[3:7]
    wait_for(lambda: runner.proposer.stats().unavailable > 0)
    assert runner.step(a=[TEXT[10]], b=[TEXT[3]])["b"] == TEXT[4:8]


def test_a_server_that_goes_away_leaves_what_was_fetched(server, make_runner):
    address, process = server
    publish(address, PROMPT, TEXT)
    runner = make_runner(addresses=address)
    runner.add("a", PROMPT)
    runner.step(a=[TEXT[0]])
    wait_for(lambda: runner.proposer._source.num_bytes > 0)
    process.stop(0)
    assert runner.step(a=[TEXT[1]])["a"] == TEXT[2:6]
    runner.add("b", [*PROMPT, 99])
    assert runner.step(a=[TEXT[2]], b=[TEXT[0]])["a"] == TEXT[3:7]


def test_a_sibling_that_starts_late_finds_the_text_of_those_that_ended(server, make_runner):
    runner = make_runner(addresses=server[0])
    runner.add("a", PROMPT)
    runner.step(a=TEXT[:20])
    runner.finish("a")
    runner.add("b", PROMPT)
    assert runner.step(b=TEXT[:2])["b"] == TEXT[2:6]
    assert sum(runner.proposer.stats().accepted["history"]) == 0
