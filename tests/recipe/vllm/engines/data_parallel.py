"""Two engines, data parallel, behind one front end: each drafts for itself, also while the other has nothing to do.

Ranks of a dense model know nothing of each other. Those of a mixture of experts share the experts and step together, a
rank without requests with a dummy batch. vLLM's communicator for CPUs lacks two of the operations that they exchange
tokens by; plain ones over gloo are put in their place here.

Settings: `model`; `prompts`; `new_tokens`. Result: `rounds`: by name, the greedy responses of rank 0's requests and of
rank 1's; `engines`: for each engine process what `look` saw; `expected`: transformers' greedy responses.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import drafting
import ranks

WAIT_SECONDS = 120
"""For one round; a rank that waits for the other in vain fails the test here."""


def look(worker: Any, folder: str) -> None:
    """Run in each engine's process: write down what of redraft exists here. vLLM hands on one engine's answer only."""
    from redraft.recipe.vllm.proposer import proposers

    steps = [proposer.stats() for proposer in proposers()]
    seen = {
        "index": worker.vllm_config.parallel_config.data_parallel_index,
        "size": worker.vllm_config.parallel_config.data_parallel_size,
        "drafts": len(steps),
        "threads": [thread.name for thread in threading.enumerate() if "redraft" in thread.name],
        "emitted": sum(stats.emitted for stats in steps),
        "accepted": sum(sum(tokens) for stats in steps for tokens in stats.accepted.values()),
    }
    Path(folder, f"{os.getpid()}.json").write_text(json.dumps(seen))


def exchange_tokens() -> None:
    """Give vLLM's communicator for CPUs the operations that it lacks."""
    import torch
    import torch.distributed
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    def all_gatherv(self: Any, inputs: Any, dim: int = 0, sizes: list[int] | None = None) -> Any:
        if isinstance(inputs, list):
            return [all_gatherv(self, tensor, dim, sizes) for tensor in inputs]
        sizes = sizes or [len(inputs)] * self.world_size
        padded = inputs.new_zeros((max(sizes), *inputs.shape[1:]))
        padded[: len(inputs)] = inputs
        gathered = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(gathered, padded, group=self.device_group)
        return torch.cat([tensor[:size] for tensor, size in zip(gathered, sizes, strict=True)])

    def reduce_scatterv(self: Any, inputs: Any, dim: int = -1, sizes: list[int] | None = None) -> Any:
        summed = inputs.clone()
        torch.distributed.all_reduce(summed, group=self.device_group)
        sizes = sizes or [len(inputs) // self.world_size] * self.world_size
        return summed.split(sizes)[self.rank_in_group].clone()

    CpuCommunicator.all_gatherv = all_gatherv
    CpuCommunicator.reduce_scatterv = reduce_scatterv


async def write(engine: Any, name: str, prompt: list[int], rank: int, new_tokens: int) -> list[int]:
    """Return one request's greedy response."""
    from vllm import SamplingParams

    parameters = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
    token_ids: list[int] = []
    async for output in engine.generate(
        {"prompt_token_ids": prompt}, parameters, name, data_parallel_rank=rank
    ):
        token_ids = list(output.outputs[0].token_ids)
    return token_ids


async def rounds(settings: dict[str, Any]) -> dict[str, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        settings["model"],
        skip_tokenizer_init=True,
        max_model_len=256,
        max_num_seqs=16,
        data_parallel_size=2,
        **drafting.arguments(6, {"min_survival": 0.0}),
    )
    engine = AsyncLLM.from_engine_args(arguments)
    result: dict[str, Any] = {"rounds": {}, "engines": []}
    for name, working in (("both", [0, 1]), ("first", [0]), ("second", [1]), ("again", [0, 1])):
        requests = [
            write(engine, f"{name}-{rank}-{i}", prompt, rank, settings["new_tokens"])
            for rank in working
            for i, prompt in enumerate(settings["prompts"])
        ]
        responses = await asyncio.wait_for(asyncio.gather(*requests), WAIT_SECONDS)
        count = len(settings["prompts"])
        result["rounds"][name] = [responses[i : i + count] for i in range(0, len(responses), count)]
    with tempfile.TemporaryDirectory() as folder:
        await engine.collective_rpc(look, args=(folder,))
        result["engines"] = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
    engine.shutdown()
    return result


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    ranks.fork_ranks()  # what is changed in vLLM here is changed there
    exchange_tokens()
    result = asyncio.run(rounds(settings))
    result["expected"] = ranks.expected(settings["model"], settings["prompts"], settings["new_tokens"])
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
