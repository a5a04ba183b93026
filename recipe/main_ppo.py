"""Train with verl and draft from history: `python -m redraft.recipe.main_ppo <verl arguments> [redraft.*=...]`.

The same command line as `python -m verl.trainer.main_ppo`; the options of the group `redraft` are described in
recipe/config/redraft/default.yaml. Works with verl 0.9's V1 trainers, synchronous and asynchronous; doc/trainers.md has
the table of modes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from redraft.errors import FailedPrecondition, RedraftError
from redraft.recipe.compatibility.releases import VERL
from redraft.recipe.verl.options import MODES, parse_options


def check(config: DictConfig) -> None:
    """Check the parts of the configuration that drafting depends on, before anything is started.

    Raises:
        InvalidArgument: an option of the group `redraft` or one that drafting depends on has a wrong value.
        FailedPrecondition: verl is asked for something that drafting does not work with.
    """
    group: Any = OmegaConf.to_container(config.redraft, resolve=True)
    options = parse_options(group)
    if not config.trainer.use_v1:
        raise FailedPrecondition("trainer.use_v1: the recipe works with verl's V1 trainer; set it to true")
    mode = config.trainer.v1.trainer_mode
    if mode not in MODES:
        raise FailedPrecondition(
            f"trainer.v1.trainer_mode: the recipe works with {', '.join(MODES)}, not with {mode}; run "
            "`python -m verl.trainer.main_ppo` for training without drafts"
        )
    if not options.enable:
        return
    rollout = config.actor_rollout_ref.rollout
    if rollout.name != "vllm":
        raise FailedPrecondition(f"actor_rollout_ref.rollout.name: drafting needs vllm, not {rollout.name}")
    mtp = config.actor_rollout_ref.model.get("mtp")
    if mtp is not None and mtp.get("enable") and mtp.get("enable_rollout"):
        raise FailedPrecondition(
            "actor_rollout_ref.model.mtp.enable_rollout: vLLM drafts with one method at a time; switch it off, or "
            "set redraft.enable=false"
        )
    if rollout.engine_kwargs.vllm.get("speculative_config"):
        raise FailedPrecondition(
            "actor_rollout_ref.rollout.engine_kwargs.vllm.speculative_config: is set by the recipe; remove it, or "
            "set redraft.enable=false"
        )


def train(config: DictConfig) -> None:
    """Run verl's training with the recipe's trainers.

    Raises:
        FailedPrecondition: a verl that redraft was never checked against; and what `check` raises.
    """
    VERL.check(metadata.version("verl"))
    check(config)
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from redraft.recipe.verl.task_runner import task_runner_class

    auto_set_device(config)
    validate_config(
        config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config)
    )
    run_ppo(config, task_runner_class=task_runner_class())


def train_or_exit(config: DictConfig, run: Callable[[DictConfig], None] = train) -> None:
    """Run `train`, or another launcher's; a wrong configuration ends the process with one line, not a traceback."""
    try:
        run(config)
    except RedraftError as error:
        # Ray wraps what its processes raise; the cause is what the user can do something about.
        print(f"redraft: {getattr(error, 'cause', error)}", file=sys.stderr)
        raise SystemExit(2) from None


@hydra.main(config_path="config", config_name="redraft_trainer", version_base=None)
def main(config: DictConfig) -> None:
    """Entry point of the command line."""
    train_or_exit(config)


if __name__ == "__main__":
    main()
