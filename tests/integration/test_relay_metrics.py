"""The metrics port, the status page and `redraft stats` show how the relay fares."""

from __future__ import annotations

import urllib.request

import numpy as np
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from redraft import LiveIndex
from redraft.client import Relay
from redraft.client.commands import stats

PROMPT = np.arange(1, 9, dtype=np.int32)


def read(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.fixture
def relays(start):
    server = start(metrics_address="127.0.0.1:0")
    made = [Relay([server.address], run="run", interval=0.002) for _ in range(2)]
    yield server, made
    for relay in made:
        relay.close()


def test_relayed_tokens_and_the_groups_they_belong_to_are_counted(relays, eventually):
    server, (writer, reader) = relays
    address = server.server.metrics_address
    heard = LiveIndex(PROMPT)
    writer.begin(0, PROMPT, LiveIndex(PROMPT), None)
    reader.begin(0, PROMPT, heard, None)
    eventually(lambda: read(address)["redraft_relay_shared_groups"] == 1)
    writer.advance(np.array([0], np.int32), np.arange(50, 60, dtype=np.int32), np.array([0, 10], np.int32))
    eventually(lambda: read(address)["redraft_relay_sent_tokens_total"] == 10)
    samples = read(address)
    assert samples["redraft_relay_streams"] == 2
    assert samples["redraft_relay_groups"] == 1
    assert samples["redraft_relay_received_tokens_total"] == 10
    assert samples["redraft_relay_dropped_tokens_total"] == 0
    assert samples["redraft_relay_held_bytes"] > 0
    with urllib.request.urlopen(f"http://{address}/", timeout=20) as answer:
        assert "relay: 2 workers, 1 groups (1 shared)" in answer.read().decode()
    shown = " ".join(CliRunner().invoke(stats, ["--addresses", server.address]).stdout.split())
    assert "relay: 2 workers, 1 groups (1 shared)" in shown
    assert "10 tokens received, 10 sent, lag" in shown
    assert "dropped," not in shown
