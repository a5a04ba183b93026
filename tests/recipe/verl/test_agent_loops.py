"""verl's tool agent loop under its asynchronous trainer, for real: turns, tools, aborted and resumed requests."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from redraft.rollout import Rollout

sys.path.insert(0, str(Path(__file__).parent))
from training_runs import Run, arguments, train, write_prompts

pytestmark = [pytest.mark.verl, pytest.mark.vllm, pytest.mark.slow]

PROMPTS, BATCH, SAMPLES, EPOCHS = 4, 2, 4, 2
STEPS = EPOCHS * PROMPTS // BATCH
TURNS = 3
VALIDATED = 9
"""The prompt of the validation set, which is not in the training set."""
TOOL = Path(__file__).with_name("echo_tool.py")


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    make_tiny_model: Callable[..., Path],
    stored: Callable[[Path, str], list[Rollout]],
) -> Run:
    folder = tmp_path_factory.mktemp("agent_loops")
    write_prompts(folder, PROMPTS, VALIDATED)
    command = arguments(
        folder,
        make_tiny_model(sharpness=16.0),
        batch=BATCH,
        samples=SAMPLES,
        trainer__v1__trainer_mode="colocate_async",
        data__max_response_length=96,
        actor_rollout_ref__rollout__max_model_len=192,
        actor_rollout_ref__rollout__agent__default_agent_loop="tool_agent",
        actor_rollout_ref__rollout__multi_turn__enable="true",
        actor_rollout_ref__rollout__multi_turn__format="any_text",
        actor_rollout_ref__rollout__multi_turn__max_assistant_turns=TURNS,
        actor_rollout_ref__rollout__multi_turn__function_tool_path=TOOL,
        trainer__total_epochs=EPOCHS,
        trainer__test_freq=STEPS // 2,
    )
    return train(folder, command, stored)


def tool_words(token_ids: np.ndarray) -> np.ndarray:
    return (token_ids >= 900) & (token_ids < 980)


def test_training_finishes(run: Run) -> None:
    assert run.status == 0, run.log[-6000:]
    assert [line["step"] for line in run.of_kind("step")] == list(range(1, STEPS + 1))


def test_every_trajectory_is_published_once_with_its_turns(run: Run) -> None:
    of_verl = {(row["uid"], row["session_id"]): row for row in run.recorded}
    assert len(of_verl) == len(run.recorded) >= STEPS * BATCH * SAMPLES
    kept = {(rollout.group_id, rollout.sample): rollout for rollout in run.history}
    assert len(kept) == len(run.history)
    # What ends with the training may be scored and not published any more.
    assert set(kept) <= set(of_verl)
    trained = {key for key, row in of_verl.items() if row["global_steps"] < STEPS - 1}
    assert trained <= set(kept)
    for key, rollout in kept.items():
        assert rollout.prompt_token_ids.tolist() == of_verl[key]["prompt"]
        assert rollout.response_token_ids.tolist() == of_verl[key]["response"]


def test_what_the_tool_said_is_context(run: Run) -> None:
    turns = Counter()
    for rollout in run.history:
        if rollout.response_mask is None:
            turns[1] += 1
            continue
        context = ~np.asarray(rollout.response_mask, bool)
        assert tool_words(rollout.response_token_ids)[context].all()
        turns[1 + int((np.diff(context.astype(int)) == 1).sum())] += 1
    assert turns[TURNS] > 0, turns
    assert max(turns) <= TURNS


def test_trajectories_tell_the_weights_that_wrote_them(run: Run) -> None:
    versions = [rollout.weight_versions for rollout in run.history]
    assert None not in versions
    assert all(0 <= first <= last <= STEPS for first, last in versions)
    # Whether a request is in flight just when the weights change hangs on chance; test_soak.py is long enough for some.
    assert len({last for _, last in versions}) > 1
    for line in run.of_kind("step"):
        assert line["generated_tokens"] >= 0


def test_history_is_drafted_from_although_prompts_grow_by_turns(run: Run) -> None:
    drafted = {line["epoch"]: line["by_source"].get("history", {}) for line in run.of_kind("epoch")}
    assert drafted[1]["accepted"] > 0


def test_validations_have_a_line_of_their_own(run: Run) -> None:
    # What they draft from earlier ones depends on whether the index comes before their few tokens are written.
    first, *_ = run.of_kind("validation")
    assert first["by_source"].get("history", {}).get("drafted", 0) == 0
    of_prompt = [rollout for rollout in run.history if rollout.validation]
    assert len({rollout.key for rollout in of_prompt}) == 1
    assert sorted({rollout.step for rollout in of_prompt}) == [0, STEPS // 2, STEPS]
    assert not any(r.key == of_prompt[0].key for r in run.history if not r.validation)
