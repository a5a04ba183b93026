"""The recipe for real: verl's trainer, vLLM's engine and a draft server that is killed on the way, on a CPU."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redraft.rollout import Rollout

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import Run, arguments, lines_of, train, write_prompts

pytestmark = [pytest.mark.verl, pytest.mark.vllm, pytest.mark.slow]

PROMPTS, BATCH, SAMPLES, EPOCHS = 4, 2, 4, 3
STEPS_PER_EPOCH = PROMPTS // BATCH
LAST_SERVED_EPOCH = 1
"""The server is killed after this epoch."""
DOCUMENT = Path(__file__).parents[3] / "doc" / "metrics.md"
FIGURES_OF_STEPS = {"published", "lost", "server_failures"}
"""Told with each step only."""
LATE = {"estimated_saving"}
"""Told once steps with and without drafts were seen at the same load, which so short a run may not come to."""


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    make_tiny_model: Callable[..., Path],
    stored: Callable[[Path, str], list[Rollout]],
) -> Run:
    folder = tmp_path_factory.mktemp("training")
    write_prompts(folder, PROMPTS, 0)  # the validation prompt is one of the training prompts
    killed: list[int] = []

    def kill_the_server_on_the_way() -> None:
        if not killed and any(epoch_of(line) == LAST_SERVED_EPOCH for line in lines_of(folder / "metrics")):
            # what was published before the line was written is on its way for milliseconds
            time.sleep(1.0)
            killed.append(int((folder / "data" / "lock").read_text()))
            os.kill(killed[0], signal.SIGKILL)

    command = arguments(
        folder,
        make_tiny_model(sharpness=16.0),
        batch=BATCH,
        samples=SAMPLES,
        trainer__total_epochs=EPOCHS,
        trainer__test_freq=STEPS_PER_EPOCH,
        redraft__export_dir=folder / "weights",
        trainer__logger="[console,file,tensorboard]",
    )
    return train(
        folder,
        command,
        stored,
        kill_the_server_on_the_way,
        VERL_FILE_LOGGER_PATH=str(folder / "tracker"),
        TENSORBOARD_DIR=str(folder / "tensorboard"),
    )


def epoch_of(line: dict[str, Any]) -> int | None:
    return line["epoch"] if line["kind"] == "epoch" else None


def test_training_finishes_although_the_server_is_killed(run: Run) -> None:
    assert run.status == 0, run.log[-6000:]
    assert [line["step"] for line in run.of_kind("step")] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    assert [line["epoch"] for line in run.of_kind("epoch")] == list(range(EPOCHS))
    assert run.of_kind("end")
    assert run.of_kind("step")[-1]["server_failures"] > 0
    assert "training goes on without it" in run.log


def test_every_rollout_is_stored_once_as_verl_has_it(run: Run) -> None:
    last = (LAST_SERVED_EPOCH + 1) * STEPS_PER_EPOCH
    wanted = [row for row in run.recorded if row["global_steps"] <= last]
    validations = 1 + LAST_SERVED_EPOCH + 1
    assert len(wanted) == last * BATCH * SAMPLES + validations
    kept = [rollout for rollout in run.history if rollout.step <= last]
    assert len(kept) == len(wanted)
    of_verl = {(row["uid"], row["session_id"]): row for row in wanted}
    assert len(of_verl) == len(wanted)
    for rollout in kept:
        row = of_verl.pop((rollout.group_id, rollout.sample))
        assert rollout.prompt_token_ids.tolist() == row["prompt"]
        assert rollout.response_token_ids.tolist() == row["response"]
        assert rollout.reward == pytest.approx(row["reward"])
        assert rollout.step == row["global_steps"]
        assert rollout.epoch == max(rollout.step - 1, 0) // STEPS_PER_EPOCH
    assert not of_verl


def test_validation_is_marked_and_epochs_go_over_the_same_prompts(run: Run) -> None:
    assert {rollout.step for rollout in run.history if rollout.validation} >= {0, 2, 4}
    by_epoch = {
        epoch: {r.key for r in run.history if r.epoch == epoch and not r.validation}
        for epoch in range(LAST_SERVED_EPOCH + 1)
    }
    assert len(by_epoch[0]) == PROMPTS
    assert by_epoch[0] == by_epoch[1]


def test_validations_have_figures_of_their_own(run: Run) -> None:
    # How much of 32 tokens history drafts is chance: whose match is longer, its or the live group's.
    first, *later = run.of_kind("validation")
    assert first["by_source"].get("history", {}).get("drafted", 0) == 0
    assert len(later) >= LAST_SERVED_EPOCH + 1
    assert sum(source["drafted"] for line in later for source in line["by_source"].values()) > 0


def test_a_synchronous_step_is_written_by_the_weights_of_the_step_before(run: Run) -> None:
    for rollout in run.history:
        version = rollout.step if rollout.validation else rollout.step - 1
        assert rollout.weight_versions == (version, version)


def test_history_is_drafted_from_in_the_second_epoch(run: Run) -> None:
    first, second = run.of_kind("epoch")[:2]
    assert (first["epoch"], second["epoch"]) == (0, 1)
    assert second["by_source"]["history"]["drafted"] > 0
    assert second["by_source"]["history"]["accepted"] > 0
    assert second["drafted"] > 0
    assert second["mean_acceptance_length"] > 1.0
    assert second["tokens_per_step"] > 1.0
    assert 0.0 < second["acceptance_rate"] <= 1.0


def test_engines_tell_of_sources_after_the_server_is_gone(run: Run) -> None:
    last = run.of_kind("epoch")[-1]
    assert sum(counts["drafted"] for counts in last["by_source"].values()) > 0
    assert last["draft_seconds"] > 0


def test_the_figures_of_steps_add_up_to_those_of_their_epoch(run: Run) -> None:
    for epoch in run.of_kind("epoch"):
        steps = [line for line in run.of_kind("step") if line["epoch"] == epoch["epoch"]]
        for name in ("trajectories", "generated_tokens", "drafted", "accepted"):
            assert epoch[name] == sum(step[name] for step in steps), name
        assert epoch["generation_seconds"] == pytest.approx(sum(step["generation_seconds"] for step in steps))
        numbers = {step["step"] for step in steps}
        of_verl = [r for r in run.recorded if r["split"] == "train" and r["global_steps"] in numbers]
        assert epoch["generated_tokens"] == sum(len(r["response"]) for r in of_verl)
    assert all(line["reward"] is not None and line["tokens_per_second"] > 0 for line in run.of_kind("step"))


def tracked(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Return what verl's tracker got of our metrics: name without `redraft/` -> (step, value), as they came."""
    told: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in lines_of(run.folder / "tracker"):
        for name, value in line["data"].items():
            if name.startswith("redraft/"):
                told[name.removeprefix("redraft/")].append((line["step"], value))
    return told


def documented() -> dict[str, str]:
    """Return the documentation's table of the tracker's metrics: name without `redraft/` -> unit."""
    return dict(re.findall(r"^\| `redraft/([^`]+)` +\| ([^|]+?) +\|", DOCUMENT.read_text(), re.M))


def as_documented(name: str) -> str:
    """Return a metric's name as the documentation has it."""
    name = re.sub(r"^(validation|epoch)/", "", name)
    name = re.sub(r"^(source|accepted_share)/(history|live|shared)", r"\1/<source>", name)
    return re.sub(r"^position/\d+", "position/<position>", name)


def test_the_tracker_gets_the_documented_figures_and_no_others(run: Run) -> None:
    told: dict[str, set[str]] = {"": set(), "validation": set(), "epoch": set()}
    for name in tracked(run):
        period = name.partition("/")[0]
        told[period if period in told else ""].add(as_documented(name))
    wanted = set(documented())
    assert wanted - LATE <= told[""] <= wanted
    assert wanted - LATE - FIGURES_OF_STEPS <= told["epoch"] <= wanted - FIGURES_OF_STEPS
    # Few tokens of validation may have none of these: a fetch, an accepted token, a draft.
    chance = {name for name in wanted if "/<" in name} | {"fetch_latency", "acceptance_rate"}
    assert wanted - LATE - FIGURES_OF_STEPS - chance <= told["validation"] <= wanted - FIGURES_OF_STEPS


def test_the_trackers_figures_have_values_of_their_units(run: Run) -> None:
    units, told = documented(), tracked(run)
    for name, entries in told.items():
        unit, values = units[as_documented(name)], [value for _, value in entries]
        least = -float("inf") if as_documented(name) in LATE else 0.0
        most = 1.0 if unit == "share" else float("inf")
        assert all(least <= value <= most for value in values), (name, values)
        if unit not in ("share", "seconds", "tokens/second") and not name.endswith(
            ("mean_acceptance_length", "tokens_per_step", "budget_used")
        ):
            assert all(value == int(value) for value in values), (name, values)
    for name in ("mean_acceptance_length", "tokens_per_step"):
        assert all(value >= 1 for _, value in told[name]), name
    for name in ("index_bytes", "draft_seconds", "fetches", "budget_used", "generated_tokens", "published"):
        assert any(value for _, value in told[name]), name
    assert not any(value for _, value in told["lost"])


def test_the_tracker_and_the_metrics_file_agree(run: Run) -> None:
    told = {name: dict(entries) for name, entries in tracked(run).items()}
    for kind, prefix in (("step", ""), ("epoch", "epoch/")):
        for line in run.of_kind(kind):
            for name in set(documented()) & line.keys():
                if prefix and name in FIGURES_OF_STEPS:
                    continue
                assert told.get(prefix + name, {}).get(line["step"]) == line[name], (prefix + name, line)


def test_names_and_steps_suit_every_tracker(run: Run) -> None:
    # Weights & Biases wants letters, digits and underscores, begun by no digit; "/" makes sections of them. It and
    # TensorBoard want steps that never fall.
    steps = [line["step"] for line in lines_of(run.folder / "tracker")]
    assert steps == sorted(steps)
    for name in tracked(run):
        assert re.fullmatch(r"[A-Za-z_]\w*(/\w+)*", f"redraft/{name}", re.ASCII), name


def test_tensorboard_gets_what_the_tracker_gets(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    for name, entries in tracked(run).items():
        scalars = events.Scalars(f"redraft/{name}")
        assert [scalar.step for scalar in scalars] == [step for step, _ in entries], name
        values = [value for _, value in entries]
        assert [scalar.value for scalar in scalars] == pytest.approx(values, rel=1e-6), name


def test_weights_are_exported_after_every_epoch(run: Run) -> None:
    for epoch in range(EPOCHS):
        folder = run.folder / "weights" / f"epoch_{epoch}" / "huggingface"
        assert (folder / "config.json").is_file()
        assert list(folder.glob("*.safetensors"))
        assert (folder / "tokenizer.json").is_file()
