"""verl's one-step-off trainer with drafts, for real, on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from redraft.rollout import Rollout

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import BATCH, EPOCHS, PROMPTS, SAMPLES, ByHand, published_once, train_by_hand

pytestmark = [pytest.mark.verl, pytest.mark.vllm, pytest.mark.long]

STEPS = EPOCHS * PROMPTS // BATCH
LAUNCH = """
import runpy
from redraft.recipe.cpu.environment import activate
activate()  # before anything imports verl
runpy.run_module("verl.experimental.one_step_off_policy.main_ppo", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    make_tiny_model: Callable[..., Path],
    stored: Callable[[Path, str], list[Rollout]],
) -> ByHand:
    return train_by_hand(
        tmp_path_factory.mktemp("one_step_off"),
        make_tiny_model(sharpness=16.0),
        stored,
        ("-c", LAUNCH),
        "hydra.searchpath=[pkg://verl.trainer.config]",
        "++actor_rollout_ref.rollout.agent.agent_loop_manager_class="
        "redraft.recipe.verl.batch_agent_loop.RecordingManager",
    )


def test_training_finishes(run: ByHand) -> None:
    assert run.status == 0, run.log[-6000:]
    assert f"step:{STEPS} " in run.log


def test_every_response_is_published_once(run: ByHand) -> None:
    published_once(run)
    assert len(run.history) == STEPS * BATCH * SAMPLES
    assert {r.epoch for r in run.history} == set(range(EPOCHS))


def test_responses_tell_the_weights_that_wrote_them(run: ByHand) -> None:
    versions = {rollout.weight_versions for rollout in run.history}
    assert None not in versions
    assert len(versions) > 1


def test_history_is_drafted_from(run: ByHand) -> None:
    assert run.accepted["history"] > 0
    assert run.accepted["live"] > 0
