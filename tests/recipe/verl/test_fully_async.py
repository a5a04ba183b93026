"""verl's fully asynchronous trainer with drafts, for real, on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from redraft.rollout import Rollout

sys.path.insert(0, str(Path(__file__).parent))
from by_hand import BATCH, EPOCHS, PLATFORM, PROMPTS, SAMPLES, ByHand, published_once, train_by_hand

pytestmark = [pytest.mark.verl, pytest.mark.vllm, pytest.mark.long]

STEPS = EPOCHS * PROMPTS // BATCH
LAUNCH = """
from redraft.recipe.cpu.environment import activate
activate()  # before anything imports verl
from redraft.recipe.main_fully_async import main
main()
"""


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    make_tiny_model: Callable[..., Path],
    stored: Callable[[Path, str], list[Rollout]],
) -> ByHand:
    return train_by_hand(
        tmp_path_factory.mktemp("fully_async"),
        make_tiny_model(sharpness=16.0),
        stored,
        ("-c", LAUNCH),
        "data.train_batch_size=0",
        "data.gen_batch_size=1",
        "async_training.trigger_parameter_sync_step=1",
        "async_training.staleness_threshold=0.5",
        "trainer.val_before_train=true",
        f"trainer.test_freq={STEPS // 2}",
        modules=PLATFORM,
    )


def test_training_finishes(run: ByHand) -> None:
    assert run.status == 0, run.log[-6000:]
    assert f"step:{STEPS} " in run.log


def test_every_response_is_published_once(run: ByHand) -> None:
    published_once(run)
    trained = [r for r in run.history if not r.validation]
    assert len(trained) == EPOCHS * PROMPTS * SAMPLES
    assert {(r.epoch, r.step) for r in trained} == {(s * BATCH // PROMPTS, s + 1) for s in range(STEPS)}


def test_validations_belong_to_the_epoch_that_rollouts_have_come_to(run: ByHand) -> None:
    epochs = [r.epoch for r in run.history if r.validation]
    assert len(epochs) >= 3  # before training, on the way and at the end
    assert set(epochs) == set(range(EPOCHS))


def test_responses_tell_the_weights_that_wrote_them(run: ByHand) -> None:
    for rollout in run.history:
        assert rollout.weight_versions is not None
    assert len({rollout.weight_versions for rollout in run.history}) > 1


def test_history_is_drafted_from(run: ByHand) -> None:
    assert run.accepted["history"] > 0
    assert run.accepted["live"] > 0
