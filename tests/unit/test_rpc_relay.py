"""The benchmark of the live relay, made small."""

from __future__ import annotations

import json

from click.testing import CliRunner

from redraft.benchmarks.commands import bench


def test_the_relay_benchmark_counts_every_token_once() -> None:
    arguments = ["--groups", "3", "--siblings", "4", "--tokens-per-second", "20", "--seconds", "1"]
    done = CliRunner().invoke(bench, ["relay", "--json", *arguments])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert 0 < result["relayed_tokens"] <= result["expected_tokens"] == 240
    assert 0 < result["relay_ms_p50"] <= result["relay_ms_p99"] <= result["relay_ms_max"]
    assert (result["dropped_tokens"], result["gaps"]) == (0, 0)
    assert result["commit"]
