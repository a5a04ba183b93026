from __future__ import annotations

import os
from typing import Any

import pytest

from redraft.errors import InvalidArgument
from redraft.recipe.verl.options import Options, parse_addresses, parse_options


def test_no_group_means_the_defaults() -> None:
    assert parse_options(None) == Options()


def test_options_are_taken_over() -> None:
    options = parse_options(
        {
            "addresses": ["10.0.0.1:50051", "[::1]:50052"],
            "run": "qwen/dapo",
            "num_speculative_tokens": 16,
            "server": {"data_dir": "/data", "window_epochs": 4, "arguments": ["--grace", 3]},
            "poll_interval": 1,
        }
    )
    assert options.addresses == ("10.0.0.1:50051", "[::1]:50052")
    assert options.run == "qwen/dapo"
    assert options.num_speculative_tokens == 16
    assert options.server.data_dir == "/data"
    assert options.server.window_epochs == 4
    assert options.server.arguments == ("--grace", "3")
    assert options.poll_interval == 1.0


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"addres": []}, "redraft.addres: unknown option; known are enable, addresses"),
        ({"server": {"dir": "x"}}, "redraft.server.dir: unknown option; known are data_dir"),
        ({"server": "x"}, "redraft.server: 'x' is not a group of options"),
        ({"num_speculative_tokens": 0}, "redraft.num_speculative_tokens: 0 is not a whole number from 1 to"),
        ({"num_speculative_tokens": 2.5}, "redraft.num_speculative_tokens: 2.5 is not"),
        ({"num_speculative_tokens": True}, "redraft.num_speculative_tokens: True is not"),
        ({"addresses": ["node1"]}, "redraft.addresses: 'node1' is not host:port"),
        ({"addresses": ["node1:0"]}, "redraft.addresses: 'node1:0' is not host:port"),
        ({"addresses": ["http://node1:80"]}, "redraft.addresses: 'http://node1:80' is not host:port"),
        ({"addresses": [50051]}, "redraft.addresses: 50051 is not host:port"),
        ({"addresses": ["a:1", "a:1"]}, "redraft.addresses: .* is not different addresses"),
        ({"addresses": 7}, "redraft.addresses: 7 is not a list"),
        ({"enable": "yes"}, "redraft.enable: 'yes' is not true or false"),
        ({"run": ""}, "redraft.run: '' is not a name of 1 to 200"),
        ({"run": "a\nb"}, "redraft.run: .* is not a name of 1 to 200"),
        ({"proposer": "Proposer"}, "redraft.proposer: 'Proposer' is not a path package.module.Class"),
        ({"poll_interval": 0}, "redraft.poll_interval: 0 is not a number of seconds, at least 0.01"),
        ({"flush_timeout": float("inf")}, "redraft.flush_timeout: inf is not"),
        ({"metrics_file": ""}, "redraft.metrics_file: '' is not a path or null"),
        ({"server": {"restarts": -1}}, "redraft.server.restarts: -1 is not a whole number from 0"),
        ({"server": {"age_decay": 0}}, "redraft.server.age_decay: 0 is not a number above 0, at most 1"),
        ({"server": {"age_decay": 1.5}}, "redraft.server.age_decay: 1.5 is not"),
        (
            {"server": {"reward_weight": -1}},
            "redraft.server.reward_weight: -1 is not a finite number, at least 0",
        ),
        ({"server": {"reward_weight": float("nan")}}, "redraft.server.reward_weight: nan is not"),
        ({"server": {"reward_weight": "1"}}, "redraft.server.reward_weight: '1' is not"),
        ({"server": {"arguments": "--grace 3"}}, "redraft.server.arguments: '--grace 3' is not a list"),
    ],
)
def test_a_wrong_option_is_refused_by_name(group: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        parse_options(group)


@pytest.mark.parametrize("value", [None, "", []])
def test_no_addresses_means_servers_of_our_own(value: Any) -> None:
    assert parse_addresses(value) == ()


def test_addresses_may_be_one_string() -> None:
    assert parse_addresses("a:1, b:2") == ("a:1", "b:2")


def test_addresses_may_stand_in_a_file_named_from_the_folder_where_training_is_started() -> None:
    assert parse_addresses("file:/run/servers") == ("file:/run/servers",)
    assert parse_addresses(["file:servers"]) == (f"file:{os.path.abspath('servers')}",)
    for odd in ("file:", ["file:/a", "b:1"]):
        with pytest.raises(InvalidArgument, match=r"^redraft\.addresses: "):
            parse_addresses(odd)
