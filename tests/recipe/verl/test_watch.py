from __future__ import annotations

import logging
import time

import numpy as np

from redraft.client import AcceptanceReporter, Counters, DraftClient, Publisher
from redraft.recipe.verl.watch import Drafting, DraftingWatch
from redraft.rollout import Rollout
from redraft.server import ServerConfig, create_server


def report(address: str, worker: str, counters: Counters) -> None:
    """Have `worker` report once and wait until it is told."""
    reporter = AcceptanceReporter([address], run="run", worker=worker, interval=0.01)
    reporter.report(counters)
    deadline = time.monotonic() + 20
    while not reporter.sent:
        assert time.monotonic() < deadline, "the report did not arrive"
        time.sleep(0.01)
    reporter.close()


def counters(steps: int, history: int) -> Counters:
    return Counters(
        steps=steps, emitted=2 * steps, drafted={"history": [history]}, accepted={"history": [history // 2]}
    )


def test_each_look_tells_what_happened_since_the_last(draft_server) -> None:
    _, address, _ = draft_server
    watch = DraftingWatch([address], "run")
    assert watch.take().steps == 0
    report(address, "a", counters(10, 8))
    report(address, "b", counters(5, 4))
    first = watch.take()
    assert (first.steps, first.emitted, first.by_source) == (15, 30, {"history": (12, 6)})
    report(address, "a", counters(30, 28))
    second = watch.take()
    assert (second.steps, second.by_source) == (20, {"history": (20, 10)})
    assert watch.failures == 0
    watch.close()


def test_a_dead_server_costs_one_log_line_and_a_count_and_its_last_word_holds(draft_server, caplog) -> None:
    server, address, _ = draft_server
    watch = DraftingWatch([address], "run", timeout=0.5)
    report(address, "a", counters(10, 8))
    assert watch.take().steps == 10
    server.stop(0)
    with caplog.at_level(logging.WARNING, "redraft.recipe.verl"):
        nothing = {"by_source": {"history": (0, 0)}, "by_position": {"history": ((0,), (0,))}}
        assert watch.take() == Drafting(**nothing, engines=1, known=False)
        assert not watch.take().known
    assert watch.failures == 2
    assert len(caplog.messages) == 1
    assert "training goes on without it" in caplog.messages[0]
    watch.close()


def test_an_engine_that_two_servers_know_counts_once(draft_server, tmp_path) -> None:
    _, address, _ = draft_server
    other, port = create_server(ServerConfig(address="127.0.0.1:0", data_directory=tmp_path / "other"))
    other.start()
    try:
        watch = DraftingWatch([address, f"127.0.0.1:{port}"], "run")
        report(address, "a", counters(10, 8))
        report(f"127.0.0.1:{port}", "a", counters(12, 10))
        assert watch.take().steps == 12
        watch.close()
    finally:
        other.stop(0)


def test_resuming_drops_the_responses_of_later_steps(draft_server, stored) -> None:
    _, address, data = draft_server
    publisher = Publisher([address], run="run")
    prompt = np.arange(4, dtype=np.int32)
    publisher.publish([Rollout(prompt, prompt + step, epoch=0, step=step, sample=0) for step in (1, 2, 3)])
    assert publisher.flush(20)
    publisher.close()
    watch = DraftingWatch([address], "run")
    assert watch.stored() == {address: 3}
    watch.forget_from(3)
    assert watch.stored() == {address: 2}
    watch.close()
    assert sorted(rollout.step for rollout in stored(data, "run")) == [1, 2]


def test_a_run_that_no_server_knows_is_no_failure(draft_server) -> None:
    _, address, _ = draft_server
    watch = DraftingWatch([address], "run")
    watch.forget_from(1)
    assert watch.stored() == {address: 0}
    assert watch.take().drafted == 0
    assert watch.failures == 0
    watch.close()
    with DraftClient(address) as client:
        assert not client.stats().runs
