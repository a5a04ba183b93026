"""verl's trainer with engines of their own, for real, on a CPU: weights go from the actor's process to the engine's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from redraft.rollout import Rollout

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import Run, arguments, train, write_prompts

pytestmark = [pytest.mark.verl, pytest.mark.vllm, pytest.mark.long]

PROMPTS, BATCH, SAMPLES, EPOCHS = 4, 2, 4, 2
STEPS = EPOCHS * PROMPTS // BATCH


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    make_tiny_model: Callable[..., Path],
    stored: Callable[[Path, str], list[Rollout]],
) -> Run:
    folder = tmp_path_factory.mktemp("separate_async")
    write_prompts(folder, PROMPTS, 0)
    command = arguments(
        folder,
        make_tiny_model(sharpness=16.0),
        batch=BATCH,
        samples=SAMPLES,
        trainer__v1__trainer_mode="separate_async",
        trainer__v1__separate_async__parameter_sync_step=1,
        actor_rollout_ref__hybrid_engine="false",  # no engine beside the actor
        actor_rollout_ref__rollout__nnodes=1,
        actor_rollout_ref__rollout__n_gpus_per_node=1,
        actor_rollout_ref__rollout__checkpoint_engine__backend="shared_memory",
        ray_kwargs__ray_init__num_gpus=2,
        trainer__total_epochs=EPOCHS,
        trainer__test_freq=STEPS // 2,
    )
    # verl 0.9.1 logs that there is no engine beside the actor in a way that logging refuses (`flush=True`).
    return train(folder, command, stored, VERL_LOGGING_LEVEL="WARNING")


def test_training_finishes(run: Run) -> None:
    assert run.status == 0, run.log[-6000:]
    assert [line["step"] for line in run.of_kind("step")] == list(range(1, STEPS + 1))


def test_every_rollout_is_published_once_with_the_weights_that_wrote_it(run: Run) -> None:
    kept = {(rollout.group_id, rollout.sample): rollout for rollout in run.history}
    assert len(kept) == len(run.history)
    of_verl = {(row["uid"], row["session_id"]): row for row in run.recorded}
    for key, rollout in kept.items():
        assert rollout.response_token_ids.tolist() == of_verl[key]["response"]
        assert rollout.weight_versions is not None
    assert {v for r in run.history for v in r.weight_versions} >= {0, 1, 2}


def test_history_is_drafted_from(run: Run) -> None:
    assert run.of_kind("epoch")[1]["by_source"]["history"]["accepted"] > 0
