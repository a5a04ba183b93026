"""What a user with a wrong configuration sees: one line that names the option, before anything is started."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.verl


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd="/", timeout=240)


def test_a_wrong_server_address_ends_the_command_with_one_line() -> None:
    done = run(
        "-m", "redraft.recipe.cpu.main_ppo", "redraft.addresses=[draft-server]", "data.train_files=none"
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("redraft: redraft.addresses: 'draft-server' is not host:port")
    assert "Traceback" not in done.stderr


def test_verl_settings_that_drafting_cannot_work_with_are_refused() -> None:
    code = """
from pathlib import Path
import hydra, redraft.recipe.main_ppo as recipe
folder = Path(recipe.__file__).parent / "config"
for overrides in (
    ["redraft.addresses=[draft-server]"],
    ["trainer.use_v1=false"],
    ["trainer.v1.trainer_mode=elastic"],
    ["actor_rollout_ref.rollout.name=sglang"],
    ["+actor_rollout_ref.rollout.engine_kwargs.vllm.speculative_config.method=ngram"],
    ["redraft.enable=false", "actor_rollout_ref.rollout.name=sglang"],
):
    with hydra.initialize_config_dir(str(folder), version_base=None):
        config = hydra.compose("redraft_trainer", ["actor_rollout_ref.rollout.name=vllm", *overrides])
    try:
        recipe.check(config)
        print("accepted")
    except recipe.RedraftError as error:
        print(str(error).split(":")[0])
"""
    done = run("-c", code)
    assert done.stdout.splitlines()[-6:] == [
        "redraft.addresses",
        "trainer.use_v1",
        "trainer.v1.trainer_mode",
        "actor_rollout_ref.rollout.name",
        "actor_rollout_ref.rollout.engine_kwargs.vllm.speculative_config",
        "accepted",
    ], done.stderr[-3000:]


def test_the_fully_asynchronous_trainer_is_not_started_without_a_server_and_a_run() -> None:
    done = run("-m", "redraft.recipe.main_fully_async", "+redraft.session.run=mine")
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("redraft: redraft.session: lacks addresses;")
    assert "Traceback" not in done.stderr
