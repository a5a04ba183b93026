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
        self.mark(prompts, *self.place(prompts))
        return await super().generate_sequences(prompts)

    def place(self, prompts: Any) -> tuple[int, int, Counter[str]]:
        """Return a batch's step, its epoch, and how often each prompt was rolled out in that step before."""
        step = int(prompts.meta_info.get("global_steps", 0))
        steps_per_epoch = max(int(self.config.redraft.session.get("steps_per_epoch", 1)), 1)
        return step, max(step - 1, 0) // steps_per_epoch, Counter()

    def mark(self, prompts: Any, step: int, epoch: int, seen: Counter[str]) -> None:
        """Add the columns that name the trajectories of a batch.

        Args:
            prompts: verl's DataProto; rows with an equal `raw_prompt` are samples of one prompt.
            step: the trainer's global step, >= 0.
            epoch: pass over the data, >= 0.
            seen: prompt -> samples that it has in this step already; gets the batch's.
        """
        rows = prompts.non_tensor_batch["raw_prompt"]
        samples = []
        for prompt in map(str, rows):
            samples.append(seen[prompt])
            seen[prompt] += 1
        for name, column in ((SAMPLE, samples), (STEP, [step] * len(rows)), (EPOCH, [epoch] * len(rows))):
            prompts.non_tensor_batch[name] = np.array(column, dtype=np.int64)


def fully_async_manager(base: type[AgentLoopManager]) -> type[RecordingManager]:
    """Return verl's `FullyAsyncAgentLoopManager` (`base`) with workers that publish.

    The class is handed in since its module starts more than an agent loop needs. Its rollouter names samples
    `sample_<epoch>_<number>`, counted from 1, and rolls each out by itself. As its step a sample gets the one that
    would train on it if samples were trained on in the order of their numbers: steps that are counted like the
    weights' versions, so that ages can be told from both. Batches are validations; they belong to the step and the
    epoch that rollouts have come to.
    """

    class RecordingFullyAsyncManager(RecordingManager, base):
        """Marks single samples by their name."""

        _place = (0, 0)
        """Step and epoch that rollouts have come to."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._seen: dict[bool, tuple[tuple[int, int], Counter[str]]] = {}

        def place(self, prompts: Any) -> tuple[int, int, Counter[str]]:
            return self._here(validation=True)

        async def generate_sequences_single(self, prompts: Any) -> Any:
            """Roll one prompt's samples out as verl does."""
            epoch, number = map(int, str(prompts.non_tensor_batch["uid"][0]).rsplit("_", 2)[1:])
            self._place = max(number - 1, 0) // samples_per_update(self.config) + 1, epoch
            self.mark(prompts, *self._here(validation=False))
            return await super().generate_sequences_single(prompts)

        def _here(self, validation: bool) -> tuple[int, int, Counter[str]]:
            if self._seen.get(validation, (None,))[0] != self._place:
                self._seen[validation] = self._place, Counter()
            return *self._place, self._seen[validation][1]

    return RecordingFullyAsyncManager


def samples_per_update(config: Any) -> int:
    """Return how many prompts the fully asynchronous trainer takes between two changes of the engines' weights."""
    training = config.async_training
    required = config.actor_rollout_ref.actor.ppo_mini_batch_size * training.require_batches
    return int(required * training.trigger_parameter_sync_step)
