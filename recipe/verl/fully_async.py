"""verl's fully asynchronous trainer with agent loops that publish.

verl 0.9 names its rollouter and the rollouter's manager of agent loops in its code, so both are made by subclasses.
"""

from __future__ import annotations

from typing import Any

import ray


def task_runner_class() -> Any:
    """Return the Ray actor class for `run_ppo(..., task_runner_class=)`.

    Built in a function so that Ray pickles it by value together with its undecorated base; so is the rollouter's.
    """
    from verl.experimental.fully_async_policy.fully_async_main import FullyAsyncTaskRunner

    base: Any = FullyAsyncTaskRunner.__ray_actor_class__

    class RedraftFullyAsyncTaskRunner(base):
        """Runs verl's trainer beside our rollouter."""

        def _create_rollouter(self, config: Any) -> None:
            parts = self.components
            rollouter = rollouter_class().remote(
                config=config,
                tokenizer=parts["tokenizer"],
                processor=parts["processor"],
                device_name=config.trainer.device,
            )
            if "hybrid_worker_group" in parts:
                ray.get(rollouter.set_hybrid_worker_group.remote(parts["hybrid_worker_group"]))
            ray.get(rollouter.init_workers.remote())
            ray.get(rollouter.set_max_required_samples.remote())
            parts["rollouter"] = rollouter

    return ray.remote(num_cpus=1)(RedraftFullyAsyncTaskRunner)


def rollouter_class() -> Any:
    """Return verl's rollouter, as a Ray actor class with verl's own resources, with our engines and agent loops."""
    from verl.experimental.fully_async_policy.fully_async_rollouter import (
        FullyAsyncAgentLoopManager,
        FullyAsyncRollouter,
    )

    from redraft.recipe.verl.batch_agent_loop import fully_async_manager

    base: Any = FullyAsyncRollouter.__ray_actor_class__

    class RedraftFullyAsyncRollouter(base):
        """verl's rollouter; what it rolls out is published."""

        async_rollout_manager: Any

        async def _init_async_rollout_manager(self) -> None:
            import redraft.recipe.verl.register_server  # noqa: F401  # this process starts the engines

            await super()._init_async_rollout_manager()
            verls = self.async_rollout_manager
            self.async_rollout_manager = await fully_async_manager(FullyAsyncAgentLoopManager).create(
                config=self.config,
                llm_client=verls.llm_client,
                teacher_client=verls.teacher_client,
                reward_loop_worker_handles=verls.reward_loop_worker_handles,
            )

    return ray.remote(num_cpus=10, max_concurrency=100)(RedraftFullyAsyncRollouter)
