"""The training run of the demo: verl's GRPO as a process of its own, followed through its metrics file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

from redraft.errors import FailedPrecondition
from redraft.recipe.demo.process import running
from redraft.recipe.demo.settings import Settings

RUN = "demo"
"""The run's name in the draft server."""

MetricsLine = dict[str, Any]
"""One line of the metrics file, see redraft.recipe.verl."""


def arguments(settings: Settings, model: Path, out: Path, address: str) -> list[str]:
    """Return the arguments of `python -m redraft.recipe.cpu.main_ppo` for this run.

    Args:
        settings: the demo's.
        model: folder of the policy to start from.
        out: folder with data/train.parquet; metrics and weights go there too.
        address: the draft server, host:port.
    """
    rollout, actor = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
    return [
        f"data.train_files={out}/data/train.parquet",
        f"data.val_files={out}/data/train.parquet",
        f"data.train_batch_size={settings.prompts_per_step}",
        f"data.max_prompt_length={settings.prompt_length}",
        f"data.max_response_length={settings.response_length}",
        f"data.seed={settings.seed}",
        f"actor_rollout_ref.model.path={model}",
        f"{actor}.ppo_mini_batch_size={settings.prompts_per_step // settings.updates_per_step}",
        f"{actor}.ppo_micro_batch_size_per_gpu={settings.micro_batch}",
        # verl's default, bfloat16, is slower than float32 on CPUs without its units, and differs from the engine's.
        f"++{actor}.fsdp_config.mixed_precision={{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}}",
        f"{actor}.optim.lr={settings.learning_rate}",
        f"{actor}.optim.lr_warmup_steps={settings.warmup_steps}",
        f"{rollout}.n={settings.responses_per_prompt}",
        f"{rollout}.temperature={settings.temperature}",
        f"{rollout}.max_model_len={settings.max_model_len}",
        f"{rollout}.max_num_seqs={settings.concurrency}",
        f"{rollout}.max_num_batched_tokens={max(2048, settings.max_model_len)}",
        f"{rollout}.log_prob_micro_batch_size_per_gpu={settings.micro_batch}",
        "reward.custom_reward_function.path=pkg://redraft.recipe.demo.reward",
        "reward.custom_reward_function.name=compute_score",
        f"trainer.v1.trainer_mode={settings.trainer_mode}",
        f"trainer.total_epochs={settings.epochs}",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
        "trainer.project_name=redraft",
        f"trainer.experiment_name={RUN}",
        f"trainer.default_local_dir={out}/checkpoints",
        f"hydra.run.dir={out}/hydra",
        f"redraft.run={RUN}",
        f"redraft.addresses=[{address}]",
        f"redraft.num_speculative_tokens={settings.draft_tokens}",
        f"redraft.metrics_file={metrics_file(out)}",
        f"redraft.export_dir={out}/weights",
    ]


def metrics_file(out: Path) -> Path:
    """Return where the run writes its metrics."""
    return out / "metrics.jsonl"


def weights(settings: Settings, out: Path, model: Path, epoch: int) -> Path:
    """Return the folder of the weights that epoch `epoch` began with; `model` is what training began with."""
    return model if epoch == 0 else out / "weights" / f"epoch_{epoch - 1}" / "huggingface"


def train(
    command: list[str], out: Path, environment: dict[str, str], *, epochs: int
) -> Iterator[MetricsLine]:
    """Run training and yield the lines of its metrics file as they appear; ended with the generator.

    A process that fails after its last epoch has done its work: then one more line {"kind": "exit", "status": ...}
    says so.

    Args:
        command: arguments as from `arguments`.
        out: folder of metrics.jsonl and train.log.
        environment: of the process.
        epochs: how many it is to finish.

    Raises:
        FailedPrecondition: training ended with an error before that; the message holds its log's last lines.
    """
    log = out / "train.log"
    metrics_file(out).unlink(missing_ok=True)
    with running("redraft.recipe.cpu.main_ppo", command, log, environment) as process:
        finished = 0
        for line in _follow(metrics_file(out), process):
            finished += line["kind"] == "epoch"
            yield line
        status = process.wait()
        if status != 0 and finished >= epochs:
            yield {"kind": "exit", "status": status}
        elif status != 0:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise FailedPrecondition(f"training: ended with status {status}; end of {log}:\n{tail}")


def _follow(path: Path, process: subprocess.Popen[bytes]) -> Iterator[MetricsLine]:
    """Yield the complete lines of a growing file until the process has ended and all is read."""
    position, rest = 0, ""
    while True:
        over = process.poll() is not None
        if path.exists():
            with path.open(encoding="utf-8") as file:
                file.seek(position)
                rest += file.read()
                position = file.tell()
            *lines, rest = rest.split("\n")
            yield from (json.loads(line) for line in lines)
        if over:
            return
        sleep(0.3)
