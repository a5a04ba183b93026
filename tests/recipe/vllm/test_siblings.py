"""Two engines' proposers that serve one group: each drafts from what the other's siblings write at the same time."""

from __future__ import annotations

import time

import pytest

from redraft.errors import InvalidArgument
from redraft.server import ServerConfig, create_server

PROMPT = [11, 12, 13, 14, 15]
TEXT = list(range(100, 140))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts a draft server on an address, and returns it with its address."""
    servers = []

    def start(address: str = "127.0.0.1:0"):
        config = ServerConfig(address=address, data_directory=tmp_path / f"data{len(servers)}")
        server, _ = create_server(config)
        server.start()
        servers.append(server)
        return server, server.address

    yield start
    for server in servers:
        server.stop(0)


def test_an_engine_drafts_what_only_another_engine_has_written(serve, make_runner):
    _, address = serve()
    a, b = make_runner(addresses=address), make_runner(addresses=address)
    a.add("a", PROMPT)
    a.step(a=TEXT[:20])
    b.add("b", PROMPT)
    assert b.step(b=[TEXT[0]])["b"] == []
    wait_for(lambda: b.proposer.stats().relayed == 20)
    assert b.step(b=[TEXT[1]])["b"] == TEXT[2:6]
    a.step(a=TEXT[20:30])
    wait_for(lambda: b.proposer.stats().relayed == 30)
    assert b.step(b=TEXT[2:25])["b"] == TEXT[25:29]
    wait_for(lambda: a.proposer.stats().relayed == 25)
    assert sum(b.proposer.stats().accepted["live"]) == 4


def test_all_siblings_of_an_engine_are_heard_and_new_ones_draft_from_them(serve, make_runner):
    _, address = serve()
    a, b = make_runner(addresses=address), make_runner(addresses=address)
    for name, begin in (("a", 0), ("b", 10)):
        a.add(name, PROMPT)
        a.step(**{name: TEXT[begin : begin + 10]})
    b.add("c", PROMPT)
    b.step(c=[500])
    wait_for(lambda: b.proposer.stats().relayed == 20)
    a.finish("a")
    a.step(b=TEXT[20:22])
    wait_for(lambda: b.proposer.stats().relayed == 22)
    b.add("d", PROMPT)
    b.add("e", [*PROMPT, 16])
    drafts = b.step(c=[TEXT[18]], d=TEXT[:2], e=[TEXT[5]])
    assert drafts == {"c": TEXT[19:22], "d": TEXT[2:6], "e": []}


def test_with_the_relay_off_engines_know_nothing_of_each_other(serve, make_runner):
    server, address = serve()
    a, b = make_runner(addresses=address), make_runner(addresses=address, relay=False)
    a.add("a", PROMPT)
    b.add("b", PROMPT)
    a.step(a=TEXT[:20])
    b.step(b=[TEXT[0]])
    wait_for(lambda: server._service.relay.counts().groups == 1)
    assert server._service.relay.counts().streams == 1
    assert server._service.relay.counts().shared_groups == 0


def test_drafting_from_other_engines_resumes_when_a_server_returns(serve, make_runner):
    server, address = serve()
    a, b = make_runner(addresses=address), make_runner(addresses=address)
    a.add("a", PROMPT)
    b.add("b", PROMPT)
    a.step(a=TEXT[:10])
    b.step(b=[TEXT[0]])
    wait_for(lambda: b.proposer.stats().relayed == 10)
    server.stop(0)
    wait_for(lambda: b.proposer._siblings.stats().failures > 0)
    a.step(a=TEXT[10:20])
    assert b.step(b=[TEXT[1]])["b"] == TEXT[2:6]  # what was heard keeps serving
    serve(address)
    wait_for(lambda: b.proposer.stats().relayed == 20)
    assert b.step(b=TEXT[2:12])["b"] == TEXT[12:16]


def test_a_draft_never_runs_across_tokens_that_were_missed(serve, make_runner):
    _, address = serve()
    a, b = make_runner(addresses=address), make_runner(addresses=address)
    a.proposer._siblings._backlog = 10
    a.add("a", PROMPT)
    a.step(a=TEXT[:20])
    b.add("b", PROMPT)
    b.step()
    wait_for(lambda: b.proposer.stats().relayed == 10)
    assert b.proposer._siblings.stats().gaps == 1
    assert (
        b.step(b=[PROMPT[-1]])["b"] == []
    )  # behind the prompt stand missing tokens, not what came after them
    assert b.step(b=[TEXT[10]])["b"] == TEXT[11:15]


def test_a_group_that_ended_here_hears_nothing_more(serve, make_runner):
    server, address = serve()
    a, b = make_runner(addresses=address), make_runner(addresses=address)
    for runner in (a, b):
        runner.add("x", PROMPT)
        runner.step(x=TEXT[:5])
    wait_for(lambda: server._service.relay.counts().shared_groups == 1)
    b.finish("x")
    b.add("y", [1, 2, 3])
    b.step(y=[7])
    wait_for(lambda: server._service.relay.counts().shared_groups == 0)
    wait_for(lambda: a.proposer._siblings.stats().shared_groups == 0)
    wait_for(lambda: b.proposer._siblings.stats().groups == 1)


def test_servers_named_in_a_file_are_followed(serve, make_runner, tmp_path):
    first, address = serve()
    path = tmp_path / "servers"
    path.write_text(f"{address}\n")
    a, b = make_runner(addresses=f"file:{path}"), make_runner(addresses=f"file:{path}")
    for runner in (a, b):
        runner.add("x", PROMPT)
    a.step(x=TEXT[:10])
    b.step(x=[TEXT[0]])
    wait_for(lambda: b.proposer.stats().relayed == 10)
    second, address = serve()
    path.write_text(f"{address}  # the new one\n")
    wait_for(lambda: second._service.relay.counts().shared_groups == 1)
    first.stop(0)
    a.step(x=TEXT[10:20])
    wait_for(lambda: b.proposer.stats().relayed == 20)
    assert b.step(x=TEXT[1:12])["x"] == TEXT[12:16]


def test_a_missing_file_of_servers_is_named(make_runner, tmp_path):
    with pytest.raises(InvalidArgument, match=r"^addresses: cannot read .*nowhere"):
        make_runner(addresses=f"file:{tmp_path}/nowhere")
