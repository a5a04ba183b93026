"""One engine that drafts nothing, with and without the way past the rejection sampler.

Settings: `model`; `prompts`. Result: for "past" and "through": `responses` ([tokens, log-probabilities] by request),
`rejections` (calls of the rejection sampler), `told` (calls in which the scheduler was told of drafts), `asked` (calls
of the proposer); `stats`.
"""

import json
import os
import sys
from dataclasses import asdict

import drafting

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is read in this very process


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from vllm import SamplingParams

    llm = drafting.make(
        settings["model"],
        redraft={"budget": 0},
        max_model_len=256,
        max_num_seqs=8,
        max_num_batched_tokens=512,  # no chunks: vLLM's CPU generators can't take a draw back
        enable_prefix_caching=False,
    )
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.sample.rejection_sampler import RejectionSampler

    from redraft.recipe.vllm.proposer import RedraftProposer, proposers

    rejections = count_calls(RejectionSampler, "forward")
    told = count_calls(Scheduler, "update_draft_token_ids")
    asked = count_calls(RedraftProposer, "propose")
    parameters = [
        SamplingParams(
            temperature=temperature,
            top_k=top_k,
            repetition_penalty=penalty,
            logprobs=1,
            seed=seed,
            max_tokens=40,
            ignore_eos=True,
            detokenize=False,
        )
        for seed, (temperature, top_k, penalty) in enumerate(
            [(0, 0, 1), (1, 0, 1), (0.7, 20, 1), (1, 0, 1.3)]
        )
    ]
    chosen = [parameters[i % len(parameters)] for i in range(len(settings["prompts"]))]
    result = {}
    for name, past in (("past", True), ("through", False)):
        proposers()[0].plain_steps = past
        rejections.clear()
        told.clear()
        asked.clear()
        responses = []
        for output in llm.generate(
            [{"prompt_token_ids": prompt} for prompt in settings["prompts"]], chosen, use_tqdm=False
        ):
            ids = list(output.outputs[0].token_ids)
            values = [step[i].logprob for i, step in zip(ids, output.outputs[0].logprobs, strict=True)]
            responses.append([ids, values])
        result[name] = {
            "responses": responses,
            "rejections": len(rejections),
            "told": len(told),
            "asked": len(asked),
        }
    result["stats"] = asdict(proposers()[0].stats())
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


def count_calls(owner: type, name: str) -> list[int]:
    """Return a list that grows by one entry at each call of a method."""
    seen, method = [], getattr(owner, name)

    def counted(self, *args, **kwargs):
        seen.append(1)
        return method(self, *args, **kwargs)

    setattr(owner, name, counted)
    return seen


if __name__ == "__main__":
    main()
