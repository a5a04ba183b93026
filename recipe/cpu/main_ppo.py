"""The verl recipe on a machine without a GPU: `python -m redraft.recipe.cpu.main_ppo <verl arguments>`.

The same as `python -m redraft.recipe.main_ppo`, with the environment and the defaults of redraft.recipe.cpu.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from redraft.errors import RedraftError
from redraft.recipe.cpu.environment import activate


@hydra.main(config_path=".", config_name="redraft_cpu_trainer", version_base=None)
def main(config: DictConfig) -> None:
    """Entry point of the command line."""
    from redraft.recipe.main_ppo import train_or_exit

    train_or_exit(config)


if __name__ == "__main__":
    try:
        activate()
    except RedraftError as error:
        print(f"redraft: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    main()
