"""Checks of `seams.py` on verl's trainers that hand batches to agent loops: our managers and workers over verl's."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
from verl import DataProto
from verl.experimental.agent_loop import AgentLoopManager, AgentLoopWorker
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.utils.ray_utils import auto_await

from redraft.recipe.verl.batch_agent_loop import (
    RecordingManager,
    RecordingWorker,
    fully_async_manager,
)


def batch(uid: str, rows: int, **meta: Any) -> DataProto:
    prompts = np.array(
        [[{"role": "user", "content": f"p{i // 2}"}] for i in range(rows)] + [None], dtype=object
    )
    return DataProto(
        batch=None,
        non_tensor_batch={"raw_prompt": prompts[:-1], "uid": np.array([uid] * rows, dtype=object)},
        meta_info=meta,
    )


def a_batch_trainers_rows_are_named_before_they_are_split() -> None:
    session = {"steps_per_epoch": 3}
    manager = RecordingManager.__new__(RecordingManager)
    manager.config = SimpleNamespace(redraft=SimpleNamespace(session=session))
    prompts = batch("u", 6, global_steps=5)
    manager.mark(prompts, *manager.place(prompts))
    columns = prompts.non_tensor_batch
    assert columns["redraft_sample"].tolist() == [0, 1, 0, 1, 0, 1]
    assert columns["redraft_step"].tolist() == [5] * 6
    assert columns["redraft_epoch"].tolist() == [1] * 6
    assert issubclass(RecordingManager, AgentLoopManager)


def a_batch_trainer_may_wait_for_our_manager_or_not() -> None:
    """The one-step-off trainer failed: verl's manager looks at who calls, and that was a plain method of ours."""

    @auto_await  # as verl's own
    async def rolled_out(self: Any, prompts: DataProto) -> list[int]:
        await asyncio.sleep(0)
        return prompts.non_tensor_batch["redraft_step"].tolist()

    async def wait() -> list[int]:
        return await manager.generate_sequences(batch("u", 2, global_steps=4))

    manager = RecordingManager.__new__(RecordingManager)
    manager.config = SimpleNamespace(redraft=SimpleNamespace(session={"steps_per_epoch": 3}))
    kept = AgentLoopManager.generate_sequences
    AgentLoopManager.generate_sequences = rolled_out
    try:
        assert asyncio.run(wait()) == [4, 4]
        assert manager.generate_sequences(batch("u", 2, global_steps=5)) == [5, 5]
    finally:
        AgentLoopManager.generate_sequences = kept


class Noted:
    """Stands for the recorder."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def record(self, *arguments: Any) -> None:
        self.calls.append(arguments)


def a_batch_trainers_worker_records_through_verls_own_loop() -> None:
    worker = RecordingWorker.__new__(RecordingWorker)
    worker._redraft = Noted()
    worker.config = worker.tokenizer = worker.processor = worker.llm_client = worker.dataset_cls = None
    worker.hf_model_type, worker.tools = None, []
    worker.config = SimpleNamespace(data={})
    ran: dict[str, Any] = {}

    class Loop:
        """Stands for an agent loop."""

        async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
            ran.update(kwargs)
            return AgentLoopOutput(
                prompt_ids=[1], response_ids=[2, 0], response_mask=[1, 1], metrics=AgentLoopMetrics()
            )

    async def padded(self: Any, output: AgentLoopOutput, validate: bool, **kwargs: Any) -> str:
        assert "redraft_loop" not in kwargs
        output.reward_score = 0.5
        return "padded"

    from verl.experimental.agent_loop import agent_loop as module

    module._agent_loop_registry["stand_in"] = {}
    kept = module.hydra.utils.instantiate, AgentLoopWorker._agent_loop_postprocess
    module.hydra.utils.instantiate = lambda **_: Loop()
    AgentLoopWorker._agent_loop_postprocess = padded
    try:
        told = asyncio.run(
            worker._run_agent_loop(
                {},
                {"step": 7, "sample_index": 0, "rollout_n": 2, "validate": True},
                agent_name="stand_in",
                trace=False,
                uid="u",
                raw_prompt=[],
                redraft_sample=np.int64(1),
                redraft_step=np.int64(7),
                redraft_epoch=np.int64(2),
            )
        )
    finally:
        module.hydra.utils.instantiate, AgentLoopWorker._agent_loop_postprocess = kept
    assert told == "padded"
    ((outputs, validate, fields, times, attempts),) = worker._redraft.calls
    assert [o.reward_score for o in outputs] == [0.5]
    assert validate is True
    assert fields == {"uid": "u", "session_id": 1, "global_steps": 7, "redraft_epoch": 2}
    assert times[0] <= times[1]
    assert attempts == []


def the_fully_async_manager_names_single_samples() -> None:
    from verl.experimental.fully_async_policy.fully_async_rollouter import FullyAsyncAgentLoopManager

    ours = fully_async_manager(FullyAsyncAgentLoopManager)
    asked: list[DataProto] = []

    class Worker:
        """Stands for the Ray handle of an agent loop worker."""

        def __init__(self) -> None:
            self.generate_sequences = SimpleNamespace(remote=self._remote)

        def _remote(self, prompts: DataProto) -> Any:
            import concurrent.futures

            asked.append(prompts)
            done: concurrent.futures.Future[str] = concurrent.futures.Future()
            done.set_result("rolled out")
            return SimpleNamespace(future=lambda: done)

    manager = object.__new__(ours)
    manager._seen = {}
    manager.config = SimpleNamespace(
        redraft=SimpleNamespace(session={}),
        skip=None,
        async_training=SimpleNamespace(require_batches=2, trigger_parameter_sync_step=3),
        actor_rollout_ref=SimpleNamespace(actor=SimpleNamespace(ppo_mini_batch_size=5)),
    )
    manager.agent_loop_workers = [Worker()]
    for number in (59, 60, 60, 61):  # a prompt that the data has twice is rolled out twice
        rolled_out = manager.generate_sequences_single(batch(f"uid_sample_2_{number}", 2))
        assert asyncio.run(rolled_out) == "rolled out"
    told = [prompts.non_tensor_batch for prompts in asked]
    assert [columns["redraft_epoch"].tolist() for columns in told] == [[2, 2]] * 4
    assert [columns["redraft_step"].tolist() for columns in told] == [[2, 2]] * 3 + [[3, 3]]
    assert [columns["redraft_sample"].tolist() for columns in told] == [[0, 1], [2, 3], [4, 5], [0, 1]]
    validation = batch("v", 1)
    marked = []
    for _ in range(3):
        manager.mark(validation, *manager.place(validation))
        columns = validation.non_tensor_batch
        marked.append(tuple(columns[f"redraft_{name}"].item() for name in ("epoch", "step", "sample")))
    assert marked == [(2, 3, 0), (2, 3, 1), (2, 3, 2)]
