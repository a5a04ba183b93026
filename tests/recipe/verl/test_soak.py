"""A soak: verl's `colocate_async` for REDRAFT_SOAK_MINUTES (45) while a draft server is killed every few minutes and
requests are cancelled at random.

Turns of a tool agent loop, requests aborted at every step for its weight update and resumed, two draft servers of which
one is killed (-9) every REDRAFT_SOAK_RESTART seconds (180) and started again on its port and its data. At the end all
that began is let come to its end, and what the servers stored is held against verl's own record. Memory is looked at
every few seconds; with REDRAFT_SOAK_FOLDER everything is kept there, the figures in `soak.json`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from redraft.rollout import Rollout

sys.path.insert(0, str(Path(__file__).parent))
from soak_run import Server, Soak, environment, lines_of, soak
from training_runs import arguments, write_prompts

pytestmark = [pytest.mark.verl, pytest.mark.vllm, pytest.mark.long]

MINUTES = float(os.environ.get("REDRAFT_SOAK_MINUTES", "45"))
RESTART_SECONDS = float(os.environ.get("REDRAFT_SOAK_RESTART", "180"))
PROMPTS, BATCH, SAMPLES = 8, 4, 4
GROWTH = 0.05
"""Most that the memory of the engine or of a server may grow after the warm-up."""
ENGINE = ("VLLM::EngineCore", "ray::RedraftHttpServer", "ray::vLLMHttpServer")
"""The engine's own process, and the one that verl talks to."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("REDRAFT_SOAK_FOLDER")
    if kept is None:
        return tmp_path_factory.mktemp("soak")
    Path(kept).mkdir(parents=True)
    return Path(kept).resolve()


@pytest.fixture(scope="module")
def run(folder: Path, make_tiny_model: Callable[..., Path]) -> Soak:
    write_prompts(folder, PROMPTS, 0)
    model = make_tiny_model(sharpness=16.0)
    servers = {name: Server(folder / name) for name in ("steady", "killed")}
    (folder / "loops.yaml").write_text(
        "- name: cancelling\n  _target_: cancelling_loop.CancellingAgentLoop\n"
    )
    given = arguments(
        folder,
        model,
        batch=BATCH,
        samples=SAMPLES,
        trainer__v1__trainer_mode="colocate_async",
        data__max_response_length=96,
        actor_rollout_ref__actor__optim__lr="1e-6",
        actor_rollout_ref__rollout__max_model_len=192,
        actor_rollout_ref__rollout__agent__default_agent_loop="cancelling",
        actor_rollout_ref__rollout__agent__agent_loop_config_path=folder / "loops.yaml",
        actor_rollout_ref__rollout__multi_turn__enable="true",
        actor_rollout_ref__rollout__multi_turn__format="any_text",
        actor_rollout_ref__rollout__multi_turn__max_assistant_turns=3,
        actor_rollout_ref__rollout__multi_turn__function_tool_path=Path(__file__).with_name("echo_tool.py"),
        trainer__total_epochs=100_000,
        trainer__val_before_train="false",
        trainer__test_freq=-1,
        redraft__addresses=f"[{','.join(server.address for server in servers.values())}]",
    )
    # Bounds that are reached within the warm-up. Memory that was never used is not resident.
    given.append("+redraft.proposer_options.history_tokens=50000")
    given.append("+actor_rollout_ref.rollout.engine_kwargs.vllm.num_gpu_blocks_override=256")
    if os.environ.get("REDRAFT_SOAK_PLAIN"):
        # Whose memory is it? verl's own server cannot be paused with this vLLM, so its synchronous trainer then.
        given += ["redraft.enable=false", "trainer.v1.trainer_mode=sync"]
    try:
        found = soak(
            MINUTES,
            [sys.executable, "-m", "redraft.recipe.cpu.main_ppo", *given],
            servers,
            folder,
            restart_seconds=RESTART_SECONDS,
            environment=environment(folder),
        )
    finally:
        for server in servers.values():
            if server.process.poll() is None:
                server.end(signal.SIGTERM)
    figures = {**found.summary(), "samples": found.memory}
    (folder / "soak.json").write_text(json.dumps(figures))
    print(json.dumps(found.summary(), indent=1))
    return found


@pytest.fixture(scope="module")
def history(run: Soak, folder: Path, stored: Callable[[Path, str], list[Rollout]]) -> list[Rollout]:
    return [r for name in ("steady", "killed") for r in stored(folder / name, "tests/training")]


def test_training_goes_on_to_the_end(run: Soak) -> None:
    assert run.seconds >= 60 * MINUTES, run.log[-6000:]
    assert run.kills >= 60 * MINUTES // (1.3 * RESTART_SECONDS)
    last = run.engine[-1]
    assert last["cancelled"] > len(run.steps)
    assert sum(
        line["by_source"]["history"]["accepted"] for line in run.steps if line["by_source"].get("history")
    )


def test_no_request_is_stuck(run: Soak) -> None:
    assert run.drained, run.engine[-3:]
    last = run.engine[-1]
    assert last["turns"] == 0
    assert last["requests"] <= 1, "the proposer knows of requests that are gone"  # the probe's own


def test_every_trajectory_is_stored_once_as_verl_has_it(
    run: Soak, history: list[Rollout], folder: Path
) -> None:
    of_verl = {(row["uid"], row["session_id"]): row for row in lines_of(folder / "recorded.jsonl")}
    assert len(of_verl) == len(lines_of(folder / "recorded.jsonl")) >= len(run.steps) * BATCH * SAMPLES
    stored = Counter((rollout.group_id, rollout.sample) for rollout in history)
    assert not set(of_verl) - set(stored), "missing"
    assert not set(stored) - set(of_verl), "nobody published them"
    assert set(stored.values()) == {1}
    for rollout in history:
        row = of_verl[rollout.group_id, rollout.sample]
        assert rollout.prompt_token_ids.tolist() == row["prompt"]
        assert rollout.response_token_ids.tolist() == row["response"]
        assert rollout.reward == pytest.approx(row["reward"])
        assert rollout.weight_versions is not None
    assert any(first < last for first, last in (r.weight_versions for r in history)), "nothing was resumed"


@pytest.mark.skipif(MINUTES < 20, reason="too short for memory to settle")
def test_memory_is_flat_after_the_warm_up(run: Soak) -> None:
    grown = {name: run.growth(name) for name in run.memory if name.startswith((*ENGINE, "draft server"))}
    assert len([name for name in grown if grown[name] is not None]) >= 3, grown
    assert not {name: growth for name, growth in grown.items() if growth is not None and growth > GROWTH}
