"""Publishing from verl's trainers that hand batches to their agent loops and wait for them: an extension point.

verl 0.9's one-step-off and fully asynchronous trainers (`verl.experimental`) come from before the V1 trainers and
bring engines and loggers of their own, so there is no trainer of ours for them. What drafting needs of them is that
finished responses are published, and that is here: managers of agent loops whose workers publish to the servers and
the run of `config.redraft.session` (addresses, run, steps_per_epoch). doc/trainers.md shows how they are put in place.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import ray
from verl.experimental.agent_loop import AgentLoopManager, AgentLoopWorker
from verl.utils.ray_utils import auto_await

from redraft.recipe.verl.attempts import close_trajectory, open_trajectory
from redraft.recipe.verl.llm_client import noting
from redraft.recipe.verl.recorder import EPOCH, Recorder, generation_start, now

SAMPLE, STEP = "redraft_sample", "redraft_step"
"""Columns that a manager adds to a batch: the row's number among those with its prompt, and the batch's global step."""

_OURS = "redraft_loop"


class RecordingWorker(AgentLoopWorker):
    """verl's agent loop worker, publishing each trajectory when its loop ends."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._redraft = Recorder(config.redraft.session)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any
    ) -> Any:
        columns = {name: kwargs.pop(name) for name in (EPOCH, SAMPLE, STEP) if name in kwargs}
        kwargs[_OURS] = {"started": now(), "trajectory": trajectory, **columns}
        open_trajectory()
        return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **kwargs: Any) -> Any:
        ours, ended = kwargs.pop(_OURS), now()
        padded = await super()._agent_loop_postprocess(output, validate, **kwargs)
        trajectory = ours["trajectory"]
        fields = {
            "uid": kwargs.get("uid", ""),
            "session_id": ours.get(SAMPLE, trajectory["rollout_n"]),
            "global_steps": max(int(ours.get(STEP, trajectory["step"])), 0),
            EPOCH: ours.get(EPOCH, 0),
        }
        times = (generation_start([output], ours["started"], ended), ended)
        self._redraft.record([output], validate, fields, times, close_trajectory())
        return padded


class RecordingManager(AgentLoopManager):
    """verl's manager of agent loops, with workers that publish.

    The one-step-off trainer takes it as `actor_rollout_ref.rollout.agent.agent_loop_manager_class`.
    """

    llm_client: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.llm_client = noting(self.llm_client)
        self.agent_loop_workers_class = ray.remote(RecordingWorker)

    @auto_await  # looks at who calls whether to give a result or something to wait for, so that must be like verl's own
    async def generate_sequences(self, prompts: Any) -> Any:
        """Roll a batch out as verl does, its rows numbered first: chunks of a group may go to several workers."""
        self.mark(prompts, int(prompts.meta_info.get("global_steps", 0)))
        return await super().generate_sequences(prompts)

    def mark(self, prompts: Any, step: int, epoch: int | None = None) -> None:
        """Add the columns that name the trajectories of a batch.

        Args:
            prompts: verl's DataProto; rows with an equal `raw_prompt` are samples of one prompt.
            step: the trainer's global step, >= 0.
            epoch: pass over the data; None: the step's, by `config.redraft.session.steps_per_epoch`.
        """
        if epoch is None:
            epoch = max(step - 1, 0) // max(int(self.config.redraft.session.get("steps_per_epoch", 1)), 1)
        rows = prompts.non_tensor_batch["raw_prompt"]
        seen: Counter[str] = Counter()
        samples = []
        for prompt in map(str, rows):
            samples.append(seen[prompt])
            seen[prompt] += 1
        for name, column in ((SAMPLE, samples), (STEP, [step] * len(rows)), (EPOCH, [epoch] * len(rows))):
            prompts.non_tensor_batch[name] = np.array(column, dtype=np.int64)


def fully_async_manager(base: type[AgentLoopManager]) -> type[RecordingManager]:
    """Return verl's `FullyAsyncAgentLoopManager` (`base`) with workers that publish.

    The class is handed in since its module starts more than an agent loop needs. Its rollouter names samples
    `sample_<epoch>_<number>` and rolls each out by itself; the number stands for the step.
    """

    class RecordingFullyAsyncManager(RecordingManager, base):
        """Marks single samples by their name."""

        async def generate_sequences_single(self, prompts: Any) -> Any:
            """Roll one prompt's samples out as verl does."""
            epoch, number = str(prompts.non_tensor_batch["uid"][0]).rsplit("_", 2)[1:]
            self.mark(prompts, int(number), int(epoch))
            return await super().generate_sequences_single(prompts)

    return RecordingFullyAsyncManager
