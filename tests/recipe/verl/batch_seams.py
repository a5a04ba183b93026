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
    manager.mark(prompts, 5)
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

    manager = ours.__new__(ours)
    manager.config = SimpleNamespace(redraft=SimpleNamespace(session={}), skip=None)
    manager.agent_loop_workers = [Worker()]
    told = asyncio.run(manager.generate_sequences_single(batch("uid_sample_2_41", 2)))
    assert told == "rolled out"
    columns = asked[0].non_tensor_batch
    assert columns["redraft_epoch"].tolist() == [2, 2]
    assert columns["redraft_step"].tolist() == [41, 41]
    assert columns["redraft_sample"].tolist() == [0, 1]
