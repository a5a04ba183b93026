"""Real runs of the recipe on a CPU, for the tests that look at what one left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.rollout import Rollout

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


def train(
    folder: Path,
    arguments: list[str],
    stored: Callable[[Path, str], list[Rollout]],
    watch: Callable[[], None] = lambda: None,
    launch: Sequence[str] = ("-m", "redraft.recipe.cpu.main_ppo"),
    **environment: str,
) -> Run:
    """Train in a process of its own and wait for its end.

    Args:
        folder: where everything goes.
        arguments: of the command line.
        stored: reads a server's data directory.
        watch: called every tenth of a second.
        launch: what Python is to run.
        environment: further variables of the process.
    """
    environment = {
        **os.environ,
        "REDRAFT_TEST_RECORD": str(folder / "recorded.jsonl"),
        "REDRAFT_STRICT": "1",
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    command = [sys.executable, *launch, *arguments]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            deadline = time.monotonic() + TIMEOUT
            while process.poll() is None:
                assert time.monotonic() < deadline, (folder / "log").read_text(errors="replace")[-6000:]
                watch()
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


def arguments(folder: Path, model: Path, *, batch: int, samples: int, **changes: Any) -> list[str]:
    """Return the command line of a small run.

    Args:
        folder: has the data sets, and gets everything.
        model: the policy to start from.
        batch: prompts a step.
        samples: responses to a prompt.
        changes: further arguments, `__` for a dot; they replace the ones here.
    """
    chosen: dict[str, Any] = {
        "data.train_files": folder / "train.parquet",
        "data.val_files": folder / "validation.parquet",
        "data.train_batch_size": batch,
        "data.max_prompt_length": 32,
        "data.max_response_length": 32,
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.actor.ppo_mini_batch_size": batch,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 8,
        "actor_rollout_ref.actor.optim.lr": "1e-5",
        "actor_rollout_ref.rollout.n": samples,
        "actor_rollout_ref.rollout.max_model_len": 128,
        "actor_rollout_ref.rollout.max_num_seqs": 16,
        "actor_rollout_ref.rollout.max_num_batched_tokens": 512,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 8,
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.module.path": Path(__file__).with_name("recording_reward.py"),
        "reward.reward_manager.name": "RecordingRewardManager",
        "trainer.val_before_train": "true",
        "trainer.project_name": "tests",
        "trainer.experiment_name": "training",
        "trainer.default_local_dir": folder / "checkpoints",
        "redraft.num_speculative_tokens": 4,
        "redraft.server.data_dir": folder / "data",
        "redraft.server.restarts": 0,
        "redraft.metrics_file": folder / "metrics",
        "redraft.flush_timeout": 2,
    }
    chosen.update({name.replace("__", "."): value for name, value in changes.items()})
    return [f"{name}={value}" for name, value in chosen.items()]


def write_prompts(folder: Path, prompts: int, *validation: int) -> None:
    """Write the data sets: prompts 0 and up for training, those of these numbers for validation."""
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

    for name, split, numbers in (("train", "train", range(prompts)), ("validation", "test", validation)):
        pq.write_table(pa.Table.from_pylist([row(i, split) for i in numbers]), folder / f"{name}.parquet")


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a JSON lines file that may still be written."""
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
