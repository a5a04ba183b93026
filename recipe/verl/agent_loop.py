"""verl's agent loops, with every finished trajectory published and counted the moment its loop ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import lru_cache
from typing import Any
from uuid import uuid4

import ray
from tensordict import TensorDict
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils import tensordict_utils as tu

from redraft.recipe.verl.attempts import close_trajectory, open_trajectory
from redraft.recipe.verl.llm_client import noting
from redraft.recipe.verl.recorder import EPOCH, OCCURRENCE, Recorder, generation_start, now
from redraft.recipe.verl.tally import merge_slots

_STEPS_REMEMBERED = 64
"""Asynchronous trainers dispatch for few steps at a time; older ones get no more prompts."""


@lru_cache(maxsize=1)
def worker_class() -> type:
    """Return the agent loop worker, undecorated.

    Built in a function for two reasons that belong to Ray: a class decorated with @ray.remote cannot be inherited,
    so its base is `__ray_actor_class__`; and that base, shadowed by its decorated self in its module, is pickled by
    value, so a subclass pickled by reference would meet another copy of its base in the worker.
    """
    base: Any = AgentLoopWorkerTQ.__ray_actor_class__

    class RedraftAgentLoopWorker(base):
        """Records each trajectory, training and validation, after verl has scored and stored it."""

        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            self._redraft = Recorder(config.redraft.session)

        async def _run_agent_loop(self, sampling_params: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            kwargs["redraft_started"] = now()
            open_trajectory()
            return await super()._run_agent_loop(sampling_params, *args, **kwargs)

        async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> None:
            started, ended = kwargs.pop("redraft_started"), now()
            outputs = output if isinstance(output, list) else [output]
            times = (generation_start(outputs, started, ended), ended)
            await super()._agent_loop_postprocess(output, validate, **kwargs)
            self._redraft.record(outputs, validate, kwargs, times, close_trajectory())

        async def redraft_collect(self, flush_timeout: float = 0.0) -> dict[str, Any]:
            """Return what `Recorder.collect` does."""
            return await self._redraft.collect(flush_timeout)

        async def redraft_warm_up(self) -> None:
            """Generate two tokens, so that every process on the way has started and loaded its libraries."""
            prompt = [self.tokenizer.eos_token_id or 0]
            sampling = {"max_tokens": 2, "temperature": 1.0}
            await self.llm_client.generate(
                request_id=uuid4().hex, prompt_ids=prompt, sampling_params=sampling
            )

    return RedraftAgentLoopWorker


class RedraftAgentLoopManager(AgentLoopManagerTQ):
    """Runs recording workers, and adds to each batch what they need to name its trajectories."""

    llm_client: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.llm_client = noting(self.llm_client)
        self.agent_loop_workers_class = ray.remote(worker_class())
        self._occurrences: dict[tuple[bool, int], Counter[str]] = {}

    async def _init_agent_loop_workers(self) -> None:
        await super()._init_agent_loop_workers()
        if self.config.redraft.warm_up:
            await asyncio.gather(*[worker.redraft_warm_up.remote() for worker in self.agent_loop_workers])

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Dispatch a batch as verl does, with columns for the epoch and for repeated prompts."""
        step = int(tu.get(prompts, "global_steps"))
        validate = bool(tu.get(prompts, "validate", False))
        if EPOCH not in prompts:
            tu.assign_non_tensor_stack(prompts, EPOCH, [self._epoch(step)] * len(prompts))
        tu.assign_non_tensor_stack(prompts, OCCURRENCE, self._count_prompts(validate, step, prompts))
        super().generate_sequences(prompts)

    def redraft_collect(self, flush_timeout: float = 0.0) -> dict[str, Any]:
        """Return the sums over all workers of what they recorded since the last call.

        Args:
            flush_timeout: wait at most this many seconds for responses still to be sent; 0: do not wait.
        """
        parts = ray.get([worker.redraft_collect.remote(flush_timeout) for worker in self.agent_loop_workers])
        counts: Counter[str] = Counter()
        for part in parts:
            counts.update({k: v for k, v in part["publisher"].items() if isinstance(v, int)})
        return {"tallies": merge_slots(part["tallies"] for part in parts), "publisher": dict(counts)}

    def _epoch(self, step: int) -> int:
        """Return the epoch of a batch that the trainer did not mark: validation, or resumed in flight."""
        session = self.config.redraft.session or {}
        return max(step - 1, 0) // max(int(session.get("steps_per_epoch", 1)), 1)

    def _count_prompts(self, validate: bool, step: int, prompts: TensorDict) -> list[int]:
        """Return for each row how often its prompt was dispatched in this step before."""
        self._occurrences = {k: v for k, v in self._occurrences.items() if k[1] > step - _STEPS_REMEMBERED}
        seen = self._occurrences.setdefault((validate, step), Counter())
        rows = []
        for prompt in tu.get(prompts, "raw_prompt"):
            key = str(prompt)
            rows.append(seen[key])
            seen[key] += 1
        return rows
