"""What the soak finds in its samples and in what was stored."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from redraft.recipe.vllm import soak
from redraft.recipe.vllm.overhead import PLAIN, compare
from redraft.recipe.vllm.soak_engine import digest, identity
from redraft.rollout import Rollout

GOOD_LOAD = {"errors": [], "flushed": True, "stuck": 0}


def samples(*sizes: int) -> list[tuple[float, int]]:
    return [(float(i), size) for i, size in enumerate(sizes)]


def test_growth_is_judged_after_the_warm_up():
    report = soak.Report(1.0, load=dict(GOOD_LOAD))
    report.memory["engine"] = samples(*range(10, 100, 10), 100, *[100] * 22)  # all of it while warming up
    report.memory["server"] = samples(*[50] * 32)
    assert report.growth("engine") == pytest.approx(0.0, abs=0.05)
    assert report.failures() == []
    report.memory["server"] = samples(*range(100, 132))
    assert report.growth("server") == pytest.approx(0.145, abs=0.01)
    assert report.failures() == ["memory of the server grew by 14.3 %"]


def test_too_few_samples_are_no_proof():
    report = soak.Report(
        1.0, load=dict(GOOD_LOAD), memory={"engine": samples(1, 2), "server": samples(*[5] * 40)}
    )
    assert report.failures() == ["memory of the engine: too short a time to tell"]


def test_whatever_went_wrong_is_named():
    memory = {name: samples(*[5] * 40) for name in ("engine", "server")}
    load = {"errors": ["boom"], "flushed": False, "stuck": 2, "dropped": 1}
    report = soak.Report(1.0, load=load, memory=memory, missing=3, repeated=1)
    assert report.failures() == [
        "2 stuck",
        "1 dropped",
        "the load failed: boom",
        "not everything could be published at the end",
        "3 responses missing",
        "1 responses repeated",
    ]
    assert soak.Report(1.0, memory=memory).failures()[0] == "the load failed: it told nothing"
    assert json.loads(json.dumps(report.to_json()))["memory"]["engine"]["samples"] == 40


def test_lost_repeated_changed_and_unknown_responses_are_counted(tmp_path, monkeypatch):
    rollouts = [
        Rollout(np.array([1, 2], np.int32), np.array([i, 5], np.int32), epoch=0, step=0, sample=i)
        for i in range(4)
    ]
    published = {identity(r): digest(r.response_token_ids) for r in rollouts[:3]}
    published[identity(rollouts[1])] = digest([9])

    def export(command, **_):
        kept = {"a": [rollouts[0], rollouts[1], rollouts[3]], "b": [rollouts[0]]}[
            command[-2].rsplit("/", 1)[1]
        ]
        rows = [
            {
                "prompt_token_ids": r.prompt_token_ids.tolist(),
                "response_token_ids": r.response_token_ids.tolist(),
                "epoch": r.epoch,
                "step": r.step,
                "sample": r.sample,
            }
            for r in kept
        ]
        with open(command[-1], "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    monkeypatch.setattr(soak.subprocess, "run", export)
    report = soak.Report(1.0)
    soak.compare(report, published, [tmp_path / "a", tmp_path / "b"])
    assert (report.missing, report.unknown, report.repeated, report.changed) == (1, 1, 1, 1)


def test_the_overhead_is_that_of_steps_made_at_the_same_time():
    costs = {
        PLAIN: [1.0, 5.0, 2.0, 1.0],
        "redraft": [1.1, 5.5, 2.2, 1.1],
    }  # the machine was busy now and then

    def engine(name):
        answers = iter([{}, *({"cpu": cpu, "wall": 2.0, "drafting": 0.01} for cpu in costs[name])])
        return SimpleNamespace(send=lambda order: None, answer=lambda: next(answers))

    plain, redraft = compare({name: engine(name) for name in costs}, 16, 4, 10)
    assert (plain.overhead, plain.error) == (0.0, 0.0)
    assert redraft.overhead == pytest.approx(0.1)
    assert redraft.error == pytest.approx(0.0, abs=1e-9)
    assert redraft.cpu == pytest.approx(0.165)
    assert redraft.drafting_share == pytest.approx(0.001 / 0.15)
