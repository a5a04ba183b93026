"""The replay with cost: prices by hand, and never slower than plain decoding."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from redraft.benchmarks.oracles import Steps, best_of_all, chosen
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
    promised = np.asarray([0.1, 0.3, 0.5, 0.8, 0.95])[:, None] ** np.arange(1, 6)
    gained = np.concatenate([np.zeros((5, 1)), promised.cumsum(axis=1)], axis=1)
    seconds = np.tile(1 + 0.1 * np.arange(6), 5)
    steps = Steps(np.full(5, 2), np.arange(0, 31, 6), seconds, gained.ravel(), gained.ravel())
    rates = [
        (10 + sum(gained[i, k] for i, k in enumerate(numbers))) / sum(seconds[k] for k in numbers)
        for numbers in itertools.product(range(6), repeat=5)
    ]
    assert best_of_all(steps).rate == pytest.approx(max(rates))
    alone = [int(np.argmax((2 + each) / seconds[:6])) for each in gained]
    assert chosen(steps) == pytest.approx(
        (sum(alone), 10 + gained[range(5), alone].sum(), seconds[alone].sum())
    )
    assert chosen(steps).rate < max(rates)
    unknowing = steps._replace(gained=0 * steps.gained)
    assert best_of_all(unknowing) == pytest.approx((0, 10, 5))
    few = steps.at(np.asarray([False, True, False, True, False]))
    assert few.accepted.tolist() == gained[[1, 3]].ravel().tolist()


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
    assert "of the informed one: 0 of 4 cells" in printed


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
