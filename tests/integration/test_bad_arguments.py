"""Arguments of clients and configuration: each bad one is refused by its name, before anything is sent."""

from __future__ import annotations

import math

import numpy as np
import pytest

from redraft.client import AcceptanceReporter, DraftClient, DraftSource, Publisher
from redraft.errors import InvalidArgument
from redraft.server import ServerConfig
from redraft.server.config import LimitsConfig, WindowConfig
from redraft.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt_token_ids", []),
        ("response_token_ids", []),
        ("response_token_ids", [-1]),
        ("response_token_ids", [1000]),
        ("response_token_ids", [[1, 2]]),
        ("response_token_ids", [0.5]),
        ("epoch", -1),
        ("epoch", 2**32),
        ("step", -1),
        ("sample", -1),
        ("reward", math.nan),
        ("reward", math.inf),
    ],
)
def test_the_publisher_refuses_what_the_server_would(publisher, rollout, field, value):
    publish = publisher("127.0.0.1:1")
    bad = rollout()
    object.__setattr__(bad, field, np.array(value) if isinstance(value, list) else value)
    with pytest.raises(InvalidArgument, match=rf"^rollouts\[1\]\.{field}: "):
        publish.publish([rollout(), bad])
    assert publish.stats().pending == 0


@pytest.mark.parametrize(
    "addresses", [[], ["nohost"], ["host:"], [":1"], ["host:99999"], ["host:port"], "host:1"]
)
@pytest.mark.parametrize("make", [Publisher, DraftSource])
def test_odd_addresses_are_refused(make, addresses):
    with pytest.raises(InvalidArgument, match=r"^addresses: "):
        make(addresses, run="run")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Publisher(["a:1"], run=""), "run"),
        (lambda: Publisher(["a:1"], run="r", max_pending_bytes=0), "max_pending_bytes"),
        (lambda: DraftSource(["a:1"], run=""), "run"),
        (lambda: DraftSource(["a:1"], run="r", memory_bytes=-1), "memory_bytes"),
        (lambda: DraftSource(["a:1"], run="r", batch=0), "batch"),
        (lambda: AcceptanceReporter(["a:1"], run="", worker="w"), "run"),
        (lambda: AcceptanceReporter(["a:1"], run="r", worker=""), "worker"),
        (lambda: DraftClient("a:1").forget("r"), "scope"),
        (lambda: DraftClient("a:1").forget("r", from_epoch=1, from_step=1), "scope"),
        (lambda: Vocabulary(size=-1), "size"),
        (lambda: Vocabulary(size=2**31), "size"),
        (lambda: WindowConfig(epochs=-1), "epochs"),
        (lambda: WindowConfig(tokens=-1), "tokens"),
        (lambda: WindowConfig(age_decay=0.0), "age_decay"),
        (lambda: WindowConfig(age_decay=math.nan), "age_decay"),
        (lambda: WindowConfig(reward_weight=-1.0), "reward_weight"),
        (lambda: LimitsConfig(calls=0), "calls"),
        (lambda: ServerConfig(address="nowhere"), "address"),
        (lambda: ServerConfig(address="127.0.0.1:65536"), "address"),
        (lambda: ServerConfig(index_bytes=0), "index_bytes"),
        (lambda: ServerConfig(chunk_bytes=0), "chunk_bytes"),
        (lambda: ServerConfig(grace=-1.0), "grace"),
    ],
)
def test_odd_arguments_are_refused_by_name(make, field):
    with pytest.raises(InvalidArgument, match=rf"^{field}: "):
        make()
