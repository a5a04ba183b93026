"""One engine on several ranks (gloo): which of them drafts, and what the others hold.

Settings: `model`; `prompts`; `parallel`: vLLM's parallel arguments; `new_tokens`. Result: `ranks`: for each rank what
`look` saw; `greedy`: rounds of responses; `expected`: transformers' greedy responses; `accepted`: draft tokens.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # `look` is sent to the ranks


def look(worker: Any) -> dict[str, Any]:
    """Run on each rank: what of redraft exists here."""
    import gc

    from redraft import Drafter
    from redraft.recipe.vllm.proposer import RedraftProposer, proposers

    everything = gc.get_objects()
    drafter = getattr(worker.model_runner, "drafter", None)
    steps = [proposer.stats() for proposer in proposers()]
    return {
        "rank": worker.rank,
        "constructed": isinstance(drafter, RedraftProposer),
        "drafts": len(steps),
        "drafters": sum(isinstance(thing, Drafter) for thing in everything),
        "attributes": sorted(vars(drafter)) if isinstance(drafter, RedraftProposer) else [],
        "threads": [thread.name for thread in threading.enumerate() if "redraft" in thread.name],
        "accepted": sum(sum(tokens) for stats in steps for tokens in stats.accepted.values()),
    }


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
    from vllm import LLM, SamplingParams

    engine = LLM(
        settings["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=32,
        seed=7,
        distributed_executor_backend="mp",
        speculative_config={
            "method": "custom_class",
            "model": "redraft.recipe.vllm.proposer.RedraftProposer",
            "num_speculative_tokens": 6,
        },
        additional_config={"redraft": {"min_survival": 0.0}},
        **settings["parallel"],
    )
    parameters = SamplingParams(
        temperature=0, max_tokens=settings["new_tokens"], ignore_eos=True, detokenize=False
    )
    requests = [{"prompt_token_ids": prompt} for prompt in settings["prompts"]]
    result: dict[str, Any] = {"greedy": []}
    for _ in range(2):
        outputs = engine.generate(requests, parameters, use_tqdm=False)
        result["greedy"].append([list(output.outputs[0].token_ids) for output in outputs])
    result["ranks"] = engine.collective_rpc(look)
    result["expected"] = expected(settings["model"], settings["prompts"], settings["new_tokens"])
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
