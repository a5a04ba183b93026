from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from redraft.recipe.verl.report import FIGURES, MetricsFile, Period, as_metrics
from redraft.recipe.verl.tally import Slot, Tally, merge_slots
from redraft.recipe.verl.watch import Drafting
from redraft.recipe.vllm.reporting import Stats
from redraft.v1 import common_pb2

DOCUMENT = Path(__file__).parents[3] / "doc" / "metrics.md"
HEALTH = ("published", "lost", "server_failures")
"""Made by the trainer itself."""


def tally(**values: float) -> Tally:
    return Tally(**values)  # type: ignore[arg-type]


def test_slots_of_several_workers_add_up_and_their_span_covers_all() -> None:
    step1, step2 = Slot(False, 1, 0), Slot(False, 2, 0)
    total = merge_slots(
        [
            {step1: tally(trajectories=2, generated_tokens=10, started=5.0, ended=7.0)},
            {
                step1: tally(trajectories=1, generated_tokens=4, started=4.0, ended=6.0),
                step2: tally(trajectories=1),
            },
        ]
    )
    assert total[step1] == tally(trajectories=3, generated_tokens=14, started=4.0, ended=7.0)
    assert total[step1].generation_seconds == 3.0
    assert total[step2].generation_seconds is None


def test_acceptance_figures_come_from_the_engine_when_it_tells_them() -> None:
    # 100 tokens in 60 steps of which 20 verified a draft of 4 and accepted 40 tokens together
    told = tally(generated_tokens=100, metered_tokens=100, drafted=80, accepted=40, verify_steps=20)
    figures = Period(told, Drafting(by_source={"history": (500, 400)}), 2.0).figures()
    assert figures["mean_acceptance_length"] == 3.0
    assert figures["tokens_per_step"] == pytest.approx(100 / 60)
    assert figures["acceptance_rate"] == 0.5
    assert figures["tokens_per_second"] == 50.0
    assert figures["by_source"] == {"history": {"drafted": 500, "accepted": 400}}


def test_acceptance_figures_come_from_the_proposers_when_the_engine_tells_none() -> None:
    drafting = Drafting(by_source={"history": (60, 30), "live": (20, 10)}, steps=50, emitted=90)
    figures = Period(tally(generated_tokens=90), drafting, 0.0).figures()
    assert figures["drafted"] == 80
    assert figures["accepted"] == 40
    assert figures["tokens_per_step"] == 1.8
    assert figures["tokens_per_second"] is None


def test_unknown_figures_are_no_metrics_and_sources_become_shares() -> None:
    period = Period(Tally(), Drafting(by_source={"history": (60, 30), "live": (20, 10)}), 0.0)
    metrics = as_metrics(period.figures(), "redraft")
    assert metrics["redraft/accepted_share/history"] == 0.75
    assert metrics["redraft/accepted_share/live"] == 0.25
    assert "redraft/tokens_per_second" not in metrics
    assert all(isinstance(value, float) for value in metrics.values())


def test_an_epoch_sums_counts_and_generation_times_of_its_steps() -> None:
    epoch = Period()
    for start in (0.0, 100.0):
        step = tally(generated_tokens=30, rewarded=2, reward_sum=1.0, started=start, ended=start + 1.5)
        epoch.add(Period.of(step, Drafting(draft_seconds=0.5, index_bytes=7)))
    figures = epoch.figures()
    assert figures["generation_seconds"] == 3.0
    assert figures["tokens_per_second"] == 20.0
    assert figures["draft_seconds"] == 1.0
    assert figures["index_bytes"] == 7
    assert epoch.tally.reward == 0.5


def test_what_was_drafted_since_is_the_difference_of_two_looks() -> None:
    def look(drafted: list[int], accepted: list[int]) -> Drafting:
        source = common_pb2.SourceAcceptance(source="history", drafted=drafted, accepted=accepted)
        return Drafting.of([common_pb2.Acceptance(steps=sum(drafted), sources=[source])])

    since = Drafting().add(look([10, 5], [8, 3])).add(look([4, 2], [4, 1]), -1)
    assert since.by_source == {"history": (9, 6)}
    assert since.steps == 9


def test_engines_counters_add_up_and_start_anew_with_new_engines() -> None:
    def told(steps: int, drafted: int) -> dict[str, Any]:
        return {
            "drafted": {"history": [drafted, drafted]},
            "accepted": {"history": [drafted]},
            "steps": steps,
            "emitted": 2 * steps,
            "draft_seconds": 0.5,
            "unavailable": 1,
            "index_bytes": 100,
        }

    before = Drafting.of_engines([told(10, 5), told(20, 6)])
    assert before.by_source == {"history": (22, 11)}
    assert (before.steps, before.draft_seconds, before.index_bytes) == (30, 1.0, 200)
    since = Drafting.of_engines([told(15, 7), told(25, 8)]).since(before)
    assert (since.steps, since.by_source, since.index_bytes) == (10, {"history": (8, 4)}, 200)
    anew = Drafting.of_engines([told(3, 1)])
    assert anew.since(before) == anew


def engine_counts(times: int) -> dict[str, Any]:
    """The counters of an engine as `redraft.recipe.vllm.reporting.Stats` tells them, `times` steps of a kind."""
    counts = {
        "engine_steps": 10,
        "steps": 40,
        "emitted": 60,
        "draft_seconds": 0.1,
        "unavailable": 2,
        "relayed": 70,
        "relay_sent": 80,
        "relay_lost": 3,
        "relay_gaps": 1,
        "relay_failures": 1,
        "fetches": 4,
        "fetch_seconds": 0.2,
        "timed_seconds": 0.6,
        "plain_seconds": 0.8,
    }
    return {
        **{name: value * times for name, value in counts.items()},
        "index_bytes": 1000,
        "drafted": {"history": [20 * times, 10 * times, 0], "live": [10 * times]},
        "accepted": {"history": [15 * times, 5 * times, 0], "live": [5 * times]},
    }


def test_every_figure_of_a_period_is_that_of_its_steps() -> None:
    before = Drafting.of_engines([engine_counts(1), engine_counts(2)])
    since = Drafting.of_engines([engine_counts(2), engine_counts(4)]).since(before)
    figures = Period(tally(generated_tokens=180), since, 6.0).figures()
    assert figures["tokens_per_step"] == 1.5
    assert figures["by_position"]["history"] == {"drafted": [60, 30, 0], "accepted": [45, 15, 0]}
    assert figures["budget_used"] == 120 / 30
    assert figures["draft_share"] == pytest.approx(0.3 / (2 * 6.0))
    assert figures["fetch_latency"] == pytest.approx(0.05)
    assert (figures["fetches"], figures["unavailable"], figures["index_bytes"]) == (12, 6, 2000)
    relay = ("relay_received", "relay_sent", "relay_lost", "relay_gaps", "relay_failures")
    assert [figures[name] for name in relay] == [210, 240, 9, 3, 3]
    assert figures["estimated_saving"] == pytest.approx(0.25)


def test_shares_and_rates_by_source_and_position_are_metrics_of_their_own() -> None:
    metrics = as_metrics(Period(Tally(), Drafting.of_engines([engine_counts(1)]), 1.0).figures(), "redraft")
    assert metrics["redraft/source/history/drafted"] == 30
    assert metrics["redraft/source/history/acceptance_rate"] == pytest.approx(20 / 30)
    assert metrics["redraft/source/live/acceptance_rate"] == 0.5
    assert metrics["redraft/position/1/acceptance_rate"] == pytest.approx(20 / 30)
    assert metrics["redraft/position/2/acceptance_rate"] == 0.5
    assert "redraft/position/3/acceptance_rate" not in metrics  # nothing was drafted there


def test_what_only_engines_know_is_unknown_when_draft_servers_tell() -> None:
    told = Drafting.of([common_pb2.Acceptance(steps=5, emitted=7, draft_seconds=0.1)])
    figures = Period(tally(generated_tokens=7), told, 1.0).figures()
    assert figures["draft_share"] == pytest.approx(0.1)
    for name in ("budget_used", "fetches", "fetch_latency", "relay_received", "estimated_saving"):
        assert figures[name] is None


def test_every_metric_has_a_line_with_its_unit_in_the_documentation() -> None:
    told = tally(generated_tokens=60, started=1.0, ended=2.0)
    metrics = as_metrics(Period.of(told, Drafting.of_engines([engine_counts(1)])).figures(), "redraft")
    general = {
        re.sub(
            r"position/\d+",
            "position/<position>",
            re.sub(r"(source|share)/(history|live)", r"\1/<source>", name),
        )
        for name in metrics
    }
    assert general == {f"redraft/{name}" for name in FIGURES}
    table = re.findall(r"^\| `redraft/([^`]+)` +\| ([^|]+?) +\|", DOCUMENT.read_text(), re.M)
    assert len(table) == len(dict(table))
    assert {name: unit for name, unit in table if name not in HEALTH} == FIGURES
    assert set(HEALTH) <= set(dict(table))


def test_every_count_of_the_proposer_has_a_line_in_the_documentation() -> None:
    section = DOCUMENT.read_text().partition("## Of one engine")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z_]+)` ", section, re.M) == [item.name for item in dataclasses.fields(Stats)]


def test_the_metrics_file_has_a_json_object_a_line_that_can_be_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out" / "metrics.jsonl"
    file = MetricsFile(str(path), "run")
    file.write("step", step=1, reward=math.nan, timing={"gen": 1.5})
    line = json.loads(path.read_text())
    file.close()
    assert line["kind"] == "step"
    assert line["run"] == "run"
    assert line["reward"] is None
    assert line["timing"] == {"gen": 1.5}
    assert line["time"] > 0


def test_a_second_run_appends_to_the_metrics_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        file = MetricsFile(str(path), "run")
        file.write("step", step=step)
        file.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
