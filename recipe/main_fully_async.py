"""verl's fully asynchronous trainer, publishing: `python -m redraft.recipe.main_fully_async <verl arguments>`.

The same command line as `python -m verl.experimental.fully_async_policy.fully_async_main`. The proposer and the
servers' addresses are written there by hand, as doc/trainers.md has it.
"""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import hydra
from omegaconf import DictConfig

from redraft.errors import FailedPrecondition
from redraft.recipe.compatibility.releases import VERL
from redraft.recipe.main_ppo import train_or_exit


def check(config: DictConfig) -> None:
    """Check the part of the configuration that our agent loops read, before anything is started.

    Raises:
        FailedPrecondition: it is not there.
    """
    session = (config.get("redraft") or {}).get("session") or {}
    missing = [name for name in ("addresses", "run") if not session.get(name)]
    if missing:
        raise FailedPrecondition(
            f"redraft.session: lacks {' and '.join(missing)}; add "
            "'+redraft.session={addresses: [HOST:PORT], run: NAME}' to the command line"
        )


def train(config: DictConfig) -> None:
    """Run verl's training with our rollouter.

    Raises:
        FailedPrecondition: a verl that redraft was never checked against; and what `check` raises.
    """
    VERL.check(metadata.version("verl"))
    check(config)
    from verl.experimental.fully_async_policy import fully_async_main

    from redraft.recipe.verl.fully_async import task_runner_class

    fully_async_main.FullyAsyncTaskRunner = task_runner_class()
    fully_async_main.main.__wrapped__(config)  # what hydra calls with the configuration


def config_folder() -> Path:
    """Return where verl has this trainer's configuration; its folder is no package that hydra could be told of.

    Raises:
        FailedPrecondition: verl is not installed.
    """
    spec = find_spec("verl")  # looks for it without importing it
    if spec is None or not spec.submodule_search_locations:
        raise FailedPrecondition("verl: is not installed")
    return Path(spec.submodule_search_locations[0]) / "experimental" / "fully_async_policy" / "config"


def start(config: DictConfig) -> None:
    """Train; what hydra calls."""
    train_or_exit(config, train)


def main() -> None:
    """Entry point of the command line."""
    name = "fully_async_ppo_trainer"
    hydra.main(config_path=str(config_folder()), config_name=name, version_base=None)(start)()


if __name__ == "__main__":
    main()
