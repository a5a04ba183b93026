"""Our classes over verl's own: what they override is there, takes the same arguments and is called. Prints JSON.

Run by test_seams.py in a process of its own, which sets the CPU's environment first: verl and Ray stay out of
pytest's. {check: "ok" or what went wrong}.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from verl.experimental.agent_loop import AgentLoopWorker
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer

from redraft.recipe.verl.agent_loop import worker_class
from redraft.recipe.verl.attempts import close_trajectory, open_trajectory
from redraft.recipe.verl.batch_agent_loop import RecordingWorker
from redraft.recipe.verl.llm_client import NotingAsyncClient, NotingClient, noting
from redraft.recipe.verl.options import MODES
from redraft.recipe.verl.rollout_server import EngineTap, RedraftHttpServer
from redraft.recipe.verl.tally import SPEC_KEYS
from redraft.recipe.verl.trainer import TRAINERS, RedraftMixin

sys.path.insert(0, str(Path(__file__).parent))
from batch_seams import (
    a_batch_trainer_may_wait_for_our_manager_or_not,
    a_batch_trainers_rows_are_named_before_they_are_split,
    a_batch_trainers_worker_records_through_verls_own_loop,
    the_fully_async_manager_names_single_samples,
)

OWN = {"redraft_close", "redraft_stats", "redraft_collect", "redraft_warm_up"}


def overrides(ours: type, verls: type, *, only: Callable[[str], bool] = lambda name: True) -> set[str]:
    """Check that what `ours` overrides of `verls` takes what verl's callers pass; return the names."""
    found = set()
    for name, method in vars(ours).items():
        if not inspect.isfunction(method) or name == "__init__" or not hasattr(verls, name) or not only(name):
            continue
        found.add(name)
        mine = inspect.signature(method).parameters
        theirs = inspect.signature(getattr(verls, name)).parameters
        if any(p.kind is p.VAR_KEYWORD for p in [*mine.values(), *theirs.values()]):
            continue
        assert list(mine) == list(theirs), f"{ours.__name__}.{name}{tuple(mine)} is not {tuple(theirs)}"
    return found


def every_v1_mode_has_a_trainer_over_verls_own() -> None:
    assert set(MODES) == set(trainer_base.TRAINER_REGISTRY)
    for mode, ours in TRAINERS.items():
        verls = trainer_base.TRAINER_REGISTRY[mode]
        assert issubclass(ours, verls)
        assert ours.__mro__.index(RedraftMixin) < ours.__mro__.index(verls)
        names = overrides(RedraftMixin, verls)
        assert names >= {
            "_init_dataloader",
            "_fetch_one_gen_batch",
            "_build_replay_buffer",
            "_load_checkpoint",
            "_validate",
            "on_step_end",
            "_compute_metrics",
        }, names
        for name in names - {"_ends_epoch"}:  # verl's hook runs too
            source = inspect.getsource(getattr(RedraftMixin, name))
            assert f"super().{name}(" in source, name
        assert callable(verls._rollout_server_managers)


def the_agent_loop_workers_override_verls_methods() -> None:
    base: Any = AgentLoopWorkerTQ.__ray_actor_class__
    wanted = {"_run_agent_loop", "_agent_loop_postprocess"}
    assert overrides(worker_class(), base) == wanted
    assert overrides(RecordingWorker, AgentLoopWorker) == wanted
    assert overrides(RedraftHttpServer, vLLMHttpServer) == {
        "_get_worker_extension_cls",
        "run_server",
        "generate",
    }


class Server:
    """Stands for the Ray handle of an engine: answers from a list, and notes what it was asked."""

    def __init__(self, *outputs: TokenOutput) -> None:
        self.outputs, self.asked = list(outputs), []
        self.generate = SimpleNamespace(remote=self._generate)

    async def _generate(self, **request: Any) -> TokenOutput:
        self.asked.append(request)
        return self.outputs.pop(0)


def output(
    tokens: list[int], version: int, counters: tuple[int, int, int] | None, reason: str
) -> TokenOutput:
    fields: dict[str, Any] = {"global_steps": version}
    if counters is not None:
        fields.update(zip(SPEC_KEYS, counters, strict=True))
    return TokenOutput(
        token_ids=tokens, log_probs=[0.0] * len(tokens), stop_reason=reason, extra_fields=fields
    )


def client_of(verls: type[LLMServerClient], server: Server) -> Any:
    rollout = SimpleNamespace(name="vllm", response_length=16, full_determinism=False)
    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout))
    client = noting(verls(config))

    async def acquire(request_id: str, **extra: Any) -> tuple[str, Server]:
        return "server", server

    client._acquire_server = acquire
    client._release_server = lambda *args, **kwargs: None
    return client


def an_aborted_request_is_resumed_and_every_attempt_noted() -> None:
    server = Server(
        output([7, 8], 3, None, "aborted"),
        output([], 3, None, "aborted"),
        output([9, 0], 4, (6, 1, 1), "completed"),
    )
    client = client_of(FullyAsyncLLMServerClient, server)
    assert type(client) is NotingAsyncClient

    async def go() -> tuple[TokenOutput, list[Any]]:
        open_trajectory()
        told = await client.generate("r", prompt_ids=[1, 2], sampling_params={"temperature": 1.0})
        return told, close_trajectory()

    told, attempts = asyncio.run(go())
    assert told.token_ids == [7, 8, 9, 0]
    assert [request["prompt_ids"] for request in server.asked] == [[1, 2], [1, 2, 7, 8], [1, 2, 7, 8]]
    assert [(a.tokens, a.version, a.counters) for a in attempts] == [
        (2, 3, None),
        (0, 3, None),
        (2, 4, (6, 1, 1)),
    ]
    assert told.extra_fields["min_global_steps"] == 3
    assert told.extra_fields["max_global_steps"] == 4


def a_plain_client_notes_each_turn() -> None:
    server = Server(output([7], 3, (1, 0, 1), "completed"), output([8], 3, (2, 2, 1), "completed"))
    client = client_of(LLMServerClient, server)
    assert type(client) is NotingClient

    async def turn(attempts_of: list[Any]) -> None:
        for prompt in ([1], [1, 7, 5]):
            await client.generate("r", prompt_ids=prompt, sampling_params={})
        attempts_of.extend(close_trajectory())

    async def go() -> list[list[Any]]:
        open_trajectory()
        seen: list[Any] = []
        await asyncio.create_task(turn(seen))  # agent loops may start tasks
        return [seen, close_trajectory()]

    seen, mine = asyncio.run(go())
    assert [a.counters for a in mine] == [(1, 0, 1), (2, 2, 1)]
    assert seen == mine


def every_turn_of_verls_tool_agent_loop_is_noted() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
    from verl.tools.tool_registry import load_all_tools
    from verl.utils.dataset.rl_dataset import RLHFDataset

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(1024)}, unk_token="t1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="t0", pad_token="t0", unk_token="t1"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tools = load_all_tools(None, str(Path(__file__).with_name("echo_tool.py")))
    server = Server(
        output([11, 12], 3, None, "aborted"),
        output([16], 4, (4, 1, 1), "completed"),
        output([21, 24], 5, (5, 2, 1), "completed"),
    )
    client = client_of(FullyAsyncLLMServerClient, server)
    turns = SimpleNamespace(
        format="any_text",
        max_user_turns=None,
        max_assistant_turns=2,
        max_parallel_calls=1,
        max_tool_response_length=64,
        tool_response_truncate_side="middle",
    )
    rollout = SimpleNamespace(multi_turn=turns, prompt_length=16, response_length=16, full_determinism=False)
    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout))

    async def go() -> tuple[AgentLoopOutput, list[Any]]:
        open_trajectory()
        loop = ToolAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=client,
            tokenizer=tokenizer,
            processor=None,
            hf_model_type="llama",
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap({}),
            tools=ToolListWrap(tools),
        )
        told = await loop.run({"temperature": 1.0}, raw_prompt=[{"role": "user", "content": "t7 t8"}])
        return told, close_trajectory()

    told, attempts = asyncio.run(go())
    assert told.prompt_ids == [7, 8]
    assert told.response_ids == [11, 12, 16, 900, 901, 902, 21, 24], told.response_ids
    assert told.response_mask == [1, 1, 1, 0, 0, 0, 1, 1]
    assert [request["prompt_ids"] for request in server.asked] == [
        [7, 8],
        [7, 8, 11, 12],
        [7, 8, 11, 12, 16, 900, 901, 902],
    ]
    assert 16 in server.asked[0]["sampling_params"]["stop_token_ids"]
    assert [a.version for a in attempts] == [3, 4, 5]
    assert [a.counters for a in attempts] == [None, (4, 1, 1), (5, 2, 1)]


def an_engine_is_paused_in_its_own_words() -> None:
    calls: list[dict[str, Any]] = []

    class Newer:
        async def pause_generation(self, *, mode: str = "abort", clear_cache: bool = True) -> None:
            calls.append({"mode": mode, "clear_cache": clear_cache})

    class Older:
        async def pause_generation(
            self, *, wait_for_inflight_requests: bool = False, clear_cache: bool = True
        ) -> None:
            calls.append({"wait": wait_for_inflight_requests, "clear_cache": clear_cache})

    for engine in (Newer(), Older()):
        for wait in (False, True):
            asyncio.run(EngineTap(engine).pause_generation(wait_for_inflight_requests=wait, clear_cache=wait))
    assert calls == [
        {"mode": "abort", "clear_cache": False},
        {"mode": "wait", "clear_cache": True},
        {"wait": False, "clear_cache": False},
        {"wait": True, "clear_cache": True},
    ]
    from vllm.v1.engine.async_llm import AsyncLLM

    assert {"mode", "clear_cache"} <= set(inspect.signature(AsyncLLM.pause_generation).parameters)


def shared_memory_takes_every_weight_across() -> None:
    import torch
    from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

    from redraft.recipe.cpu.checkpoint_engine import SharedMemoryEngine

    engine_class = CheckpointEngineRegistry.get("shared_memory")
    assert engine_class is SharedMemoryEngine
    overrides(SharedMemoryEngine, CheckpointEngine)
    actors = [engine_class(bucket_size=1, is_master=True), engine_class(bucket_size=1)]
    engines = [engine_class(bucket_size=1), engine_class(bucket_size=1)]
    metadata = [engine.prepare() for engine in [*actors, *engines]]
    sides = engine_class.build_topology(2, 2, metadata)
    for side, kwargs in zip((actors, engines), sides, strict=True):
        for i, engine in enumerate(side):
            engine.init_process_group(**{name: values[i] for name, values in kwargs.items()})
    tied = torch.arange(6.0).reshape(2, 3)
    weights = {"embed": tied, "head": tied, "bias": torch.ones(2, dtype=torch.bfloat16)}

    async def receive(engine: Any) -> dict[str, torch.Tensor]:
        return {name: weight async for name, weight in engine.receive_weights(global_steps=1)}

    async def go() -> list[Any]:
        sent = [engine.send_weights(iter(weights.items()), global_steps=1) for engine in actors]
        return await asyncio.gather(*map(receive, engines), *sent)

    for received in asyncio.run(go())[:2]:
        assert received.keys() == weights.keys()
        assert all(torch.equal(received[name], weight) for name, weight in weights.items())
    folder = actors[0]._folder
    for engine in [*actors, *engines]:
        engine.finalize()
    assert not folder.exists()


def a_module_named_in_the_environment_puts_our_server_before_any_engine() -> None:
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    from redraft.recipe.verl.rollout_server import RedraftReplica

    assert "redraft.recipe.verl.register_server" in sys.modules  # verl imported it
    assert RolloutReplicaRegistry.get("vllm") is RedraftReplica


CHECKS: list[Callable[[], None]] = [
    a_module_named_in_the_environment_puts_our_server_before_any_engine,
    every_v1_mode_has_a_trainer_over_verls_own,
    the_agent_loop_workers_override_verls_methods,
    an_aborted_request_is_resumed_and_every_attempt_noted,
    a_plain_client_notes_each_turn,
    every_turn_of_verls_tool_agent_loop_is_noted,
    an_engine_is_paused_in_its_own_words,
    a_batch_trainers_rows_are_named_before_they_are_split,
    a_batch_trainers_worker_records_through_verls_own_loop,
    a_batch_trainer_may_wait_for_our_manager_or_not,
    the_fully_async_manager_names_single_samples,
    shared_memory_takes_every_weight_across,
]


def main() -> None:
    """Run all checks."""
    results = {}
    for check in CHECKS:
        try:
            check()
            results[check.__name__] = "ok"
        except Exception:
            results[check.__name__] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
