"""`redraft bench rpc` measures what it says, at tiny sizes."""

from __future__ import annotations

import json

from click.testing import CliRunner

from redraft.benchmarks.rpc_command import rpc

TINY = [
    *("--publish-tokens", "160000", "--prompts", "3", "--restart-bytes", "200000"),
    *("--streams", "3", "--hold-seconds", "1", "--fetch-seconds", "0.1"),
    *("--relay-groups", "2", "--relay-seconds", "0.5"),
]


def test_all_figures_are_there_with_their_origin():
    result = CliRunner().invoke(rpc, [*TINY, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    for name in (
        "publish_tokens_per_core_second",
        "fetch_bytes_per_second",
        "ingest_rss_bytes",
        "store_bytes_per_token",
        "restart_seconds",
        "relay_ms_p99",
    ):
        assert figures[name] > 0, name
    assert figures["streams_bytes"] > abs(figures["streams_growth_bytes"])
    assert figures["fetch_index_bytes"] > 2_500_000
    assert figures["ingest_tokens"] == 3 * 16_000
    assert figures["machine"]["cores"] >= 1
    assert figures["sizes"]["publish_tokens"] == 160_000
    assert "commit" in figures
    assert "command" in figures


def test_one_part_can_be_measured_alone_and_shown_as_a_table():
    result = CliRunner().invoke(rpc, [*TINY, "--only", "publish"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "published tokens a server core second" in result.stdout
    assert "restart" not in result.stdout
