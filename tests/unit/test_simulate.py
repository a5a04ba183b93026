"""The replay with cost: prices by hand, and never slower than plain decoding."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from redraft.benchmarks.oracles import State, best_of_all
from redraft.benchmarks.simulate import Options, choose, plain_seconds, run
from redraft.benchmarks.simulate_command import simulate, switches_off
from redraft.benchmarks.traces import Response, Trace
from redraft.cost_table import CostTable

FREE = CostTable("free", "", np.zeros(0), np.asarray([1.0, 1000.0]), np.asarray([[1.0, 1.0001]]))
DEAR = CostTable("dear", "", np.zeros(0), np.asarray([1.0, 1000.0]), np.asarray([[1.0, 1000.0]]))


def made_trace(epochs: int = 2, prompts: int = 4, siblings: int = 4) -> Trace:
    """Make a trace whose responses to a prompt are variations of one text."""
    draw = np.random.default_rng(0)
    themes = [draw.integers(0, 500, 150) for _ in range(prompts)]
    responses = []
    for epoch in range(epochs):
        for prompt, theme in enumerate(themes):
            for sample in range(siblings):
                text = np.where(draw.random(theme.size) < 0.1, draw.integers(0, 500, theme.size), theme)
                text = text[: int(draw.integers(30, theme.size))].astype(np.int32)
                responses.append(Response(prompt, epoch, sample, text, 0.0))
    return Trace("made", [np.asarray([600 + i], np.int32) for i in range(prompts)], responses)


def test_plain_decoding_admits_as_others_end():
    table = CostTable("made", "", np.zeros(0), np.asarray([1.0, 2.0]), np.asarray([[1.0, 1.5]]))
    # the third response joins the second when the first one ends
    assert plain_seconds([3, 6, 1], 2, table) == pytest.approx(4 * 1.5 + 2 * 1.0)
    assert plain_seconds([3, 6, 1], 1, table) == pytest.approx(10)
    assert plain_seconds([0, 2], 8, table) == pytest.approx(2)


def test_siblings_stay_together():
    epoch = made_trace(1).epochs()[0]
    assert len(choose(epoch, 5)) == 8
    assert len(choose(epoch, 1000)) == len(epoch)


@pytest.mark.parametrize("at_once", [1, 8])
def test_free_drafts_are_made_and_dear_ones_are_not(at_once: int):
    free, dear = (run(made_trace(), table, at_once, Options(least=8))[-1] for table in (FREE, DEAR))
    assert free["speedup"] > 1.5
    assert free["steps_with_draft"] > 0.6
    assert dear["time_ratio"] <= 1.02
    for result in (free, dear):
        assert 0.9 < result["rule_of_oracle"] <= 1 + 1e-9
        assert result["rule_of_best_length"] > 0.95
        assert result["rule_of_informed_oracle"] > 0.95
        assert result["rule_of_patient_oracle"] <= result["rule_of_informed_oracle"] + 1e-3
        assert result["rule_of_clairvoyant"] <= result["rule_of_oracle"] + 1e-9
        assert result["speedup"] <= 1.05 * result["speedup_known_costs"]


def test_an_oracle_of_all_steps_is_patient_where_that_pays():
    draw = np.random.default_rng(0)
    prices = {2: 3 + 0.4 * np.arange(6)}
    states, gained = [], []
    for _ in range(5):
        hit = draw.random(5) < 0.6
        states.append(State(2, np.full(5, 0.6, np.float32), hit))
        gained.append(np.concatenate([[0.0], np.cumsum(hit)]))
    best = best_of_all(states, gained, prices)
    rates = [
        sum(2 + gained[i][k] for i, k in enumerate(numbers)) / sum(prices[2][k] for k in numbers)
        for numbers in itertools.product(range(6), repeat=5)
    ]
    assert best.rate == pytest.approx(max(rates))
    unknowing = best_of_all(states, [0.0 * each for each in gained], prices)
    assert (unknowing.draft_tokens, unknowing.emitted) == (0, 10)


def test_the_command_prices_with_shipped_tables(tmp_path: Path):
    rows = [
        {
            "prompt_id": str(response.prompt),
            "prompt_token_ids": [600 + response.prompt],
            "epoch": response.epoch,
            "sample": response.sample,
            "response_token_ids": response.token_ids.tolist(),
        }
        for response in made_trace().responses
    ]
    file = tmp_path / "made.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    arguments = [str(file), "--table", "llama2_7b_a100", "--concurrency", "2", "--concurrency", "4"]
    result = CliRunner().invoke(simulate, [*arguments, "--json", "--png", str(tmp_path / "made.png")])
    assert result.exit_code == 0, result.output
    entries = json.loads(result.stdout)["results"]
    assert [(entry["concurrency"], entry["epoch"]) for entry in entries] == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert all(entry["speedup"] > 1 for entry in entries)
    assert (tmp_path / "made.png").stat().st_size > 1000
    printed = CliRunner().invoke(simulate, arguments).output
    assert "time over plain decoding's" in printed
    assert "hardly anything is drafted" in printed


def test_where_drafting_switches_off_is_the_fewest_requests_beyond_which_it_is_rare():
    shares = {1: 0.9, 2: 0.01, 4: 0.3, 8: 0.04, 16: 0.0}
    entries = [
        {"file": "f", "table": "t", "epoch": 0, "concurrency": at_once, "steps_with_draft": share}
        for at_once, share in shares.items()
    ]
    assert [found["concurrency"] for found in switches_off(entries)] == [8]
    assert switches_off(entries[:1])[0]["concurrency"] is None


def test_an_unknown_table_is_refused(tmp_path: Path):
    file = tmp_path / "made.jsonl"
    file.write_text('{"prompt_token_ids": [1], "response_token_ids": [1, 2]}')
    result = CliRunner().invoke(simulate, [str(file), "--table", "nothing"])
    assert result.exit_code == 1
    assert "cost_table: nothing" in result.output
