"""The recipe for real: verl's trainer, vLLM's engine and a draft server that is killed on the way, on a CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from redraft.rollout import Rollout

pytestmark = [pytest.mark.verl, pytest.mark.vllm, pytest.mark.slow]

PROMPTS, BATCH, SAMPLES, EPOCHS = 4, 2, 4, 3
STEPS_PER_EPOCH = PROMPTS // BATCH
LAST_SERVED_EPOCH = 1
"""The server is killed after this epoch."""
TIMEOUT = 900.0


@dataclass
class Run:
    """What a finished training left behind."""

    status: int
    log: str
    lines: list[dict[str, Any]]
    """The metrics file."""
    recorded: list[dict[str, Any]]
    """Rollouts as verl has them."""
    history: list[Rollout]
    """Rollouts as the server kept them."""
    folder: Path

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    make_tiny_model: Callable[..., Path],
    stored: Callable[[Path, str], list[Rollout]],
) -> Run:
    folder = tmp_path_factory.mktemp("training")
    write_prompts(folder)
    environment = {
        **os.environ,
        "REDRAFT_TEST_RECORD": str(folder / "recorded.jsonl"),
        "REDRAFT_STRICT": "1",
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        sys.executable,
        "-m",
        "redraft.recipe.cpu.main_ppo",
        *arguments(folder, make_tiny_model(sharpness=16.0)),
    ]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            deadline = time.monotonic() + TIMEOUT
            killed = False
            while process.poll() is None:
                assert time.monotonic() < deadline, (folder / "log").read_text(errors="replace")[-6000:]
                if not killed and any(
                    epoch_of(line) == LAST_SERVED_EPOCH for line in lines_of(folder / "metrics")
                ):
                    time.sleep(
                        1.0
                    )  # what was published before the line was written is on its way for milliseconds
                    os.kill(int((folder / "data" / "lock").read_text()), signal.SIGKILL)
                    killed = True
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    return Run(
        process.returncode,
        (folder / "log").read_text(errors="replace"),
        list(lines_of(folder / "metrics")),
        list(lines_of(folder / "recorded.jsonl")),
        stored(folder / "data", "tests/training"),
        folder,
    )


def arguments(folder: Path, model: Path) -> list[str]:
    return [
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/validation.parquet",
        f"data.train_batch_size={BATCH}",
        "data.max_prompt_length=32",
        "data.max_response_length=32",
        f"actor_rollout_ref.model.path={model}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.actor.optim.lr=1e-5",
        f"actor_rollout_ref.rollout.n={SAMPLES}",
        "actor_rollout_ref.rollout.max_model_len=128",
        "actor_rollout_ref.rollout.max_num_seqs=16",
        "actor_rollout_ref.rollout.max_num_batched_tokens=512",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
        "reward.reward_manager.source=importlib",
        f"reward.reward_manager.module.path={Path(__file__).with_name('recording_reward.py')}",
        "reward.reward_manager.name=RecordingRewardManager",
        f"trainer.total_epochs={EPOCHS}",
        f"trainer.test_freq={STEPS_PER_EPOCH}",
        "trainer.val_before_train=true",
        "trainer.project_name=tests",
        "trainer.experiment_name=training",
        f"trainer.default_local_dir={folder}/checkpoints",
        "redraft.num_speculative_tokens=4",
        f"redraft.server.data_dir={folder}/data",
        "redraft.server.restarts=0",
        f"redraft.metrics_file={folder}/metrics",
        f"redraft.export_dir={folder}/weights",
        "redraft.flush_timeout=2",
    ]


def write_prompts(folder: Path) -> None:
    """Write the data sets; the validation prompt is one of the training prompts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def row(i: int, split: str) -> dict[str, Any]:
        return {
            "data_source": "tests",
            "prompt": [{"role": "user", "content": " ".join(f"t{10 * i + k + 2}" for k in range(8))}],
            "ability": "none",
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"split": split, "index": i},
        }

    pq.write_table(pa.Table.from_pylist([row(i, "train") for i in range(PROMPTS)]), folder / "train.parquet")
    pq.write_table(pa.Table.from_pylist([row(0, "test")]), folder / "validation.parquet")


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a JSON lines file that may still be written."""
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


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


def test_the_tracker_gets_the_figures(run: Run) -> None:
    for name in (
        "mean_acceptance_length",
        "acceptance_rate",
        "tokens_per_second",
        "published",
        "epoch/drafted",
    ):
        assert f"redraft/{name}:" in run.log, name
    assert "redraft/validation/drafted" in run.log


def test_weights_are_exported_after_every_epoch(run: Run) -> None:
    for epoch in range(EPOCHS):
        folder = run.folder / "weights" / f"epoch_{epoch}" / "huggingface"
        assert (folder / "config.json").is_file()
        assert list(folder.glob("*.safetensors"))
        assert (folder / "tokenizer.json").is_file()
