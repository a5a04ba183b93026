"""One engine on several ranks (gloo): which of them drafts, and what the others hold.

Settings: `model`; `prompts`; `parallel`: vLLM's parallel arguments; `new_tokens`. Result: `ranks`: for each rank what
`look` saw; `greedy`: rounds of responses; `expected`: transformers' greedy responses.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import drafting

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine's core is here, the ranks are not
os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # `look` is sent to the ranks
os.environ["TORCHDYNAMO_DISABLE"] = (
    "1"  # each rank would compile what it embeds with, for longer than all else takes
)


def look(worker: Any) -> dict[str, Any]:
    """Run on each rank: what of redraft exists here."""
    from redraft.recipe.vllm.proposer import RedraftProposer, proposers

    drafter = getattr(worker.model_runner, "drafter", None)
    steps = [proposer.stats() for proposer in proposers()]
    return {
        "rank": worker.rank,
        "constructed": isinstance(drafter, RedraftProposer),
        "drafts": len(steps),
        "attributes": sorted(vars(drafter)) if isinstance(drafter, RedraftProposer) else [],
        "threads": [thread.name for thread in threading.enumerate() if "redraft" in thread.name],
        "accepted": sum(sum(tokens) for stats in steps for tokens in stats.accepted.values()),
    }


def fork_ranks() -> None:
    """Fork the ranks off this process, which has imported everything; vLLM spawns them on CPUs, which takes several
    times as long."""
    from vllm.platforms import current_platform

    check = current_platform.check_and_update_config

    def checked(config: Any) -> None:
        check(config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    type(current_platform).check_and_update_config = staticmethod(checked)


def expected(folder: str, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    responses = []
    for prompt in prompts:
        text = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
        )
        responses.append(text[0, len(prompt) :].tolist())
    return responses


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from vllm import SamplingParams

    fork_ranks()
    llm = drafting.make(
        settings["model"],
        max_model_len=256,
        max_num_seqs=32,
        distributed_executor_backend="mp",
        **settings["parallel"],
    )
    parameters = SamplingParams(
        temperature=0, max_tokens=settings["new_tokens"], ignore_eos=True, detokenize=False
    )
    requests = [{"prompt_token_ids": prompt} for prompt in settings["prompts"]]
    result: dict[str, Any] = {"greedy": []}
    for _ in range(2):
        outputs = llm.generate(requests, parameters, use_tqdm=False)
        result["greedy"].append([list(output.outputs[0].token_ids) for output in outputs])
    result["ranks"] = llm.collective_rpc(look)
    result["expected"] = expected(settings["model"], settings["prompts"], settings["new_tokens"])
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
