"""verl's task runner, with our trainers in place of verl's."""

from __future__ import annotations

from typing import Any

import ray


def task_runner_class() -> Any:
    """Return the Ray actor class for `run_ppo(..., task_runner_class=)`.

    Built in a function so that Ray pickles it by value together with its undecorated base.
    """
    from verl.trainer.main_ppo import TaskRunnerV1

    base: Any = TaskRunnerV1.__ray_actor_class__

    class RedraftTaskRunner(base):
        """Runs the trainer of the configured mode and closes it whatever happens."""

        def run(self, config: Any) -> None:
            from verl.trainer.ppo.v1 import trainer_base

            from redraft.recipe.verl.trainer import TRAINERS

            mode = config.trainer.v1.trainer_mode
            # verl's registry refuses a second class for a name, and a new name would count as asynchronous.
            trainer_base.TRAINER_REGISTRY[mode] = TRAINERS[mode]
            try:
                super().run(config)
            finally:
                if self.trainer is not None:
                    self.trainer.redraft_close()

    return ray.remote(RedraftTaskRunner)
