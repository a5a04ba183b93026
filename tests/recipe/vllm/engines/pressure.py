"""One drafting engine with too little memory for its requests, some of which are aborted and resumed.

Settings: `model`; `prompts`. Result: `preemptions`; `responses` by request; `ranks`: for each response the set of
its tokens' ranks under teacher forcing ([1] where all are greedy); `open_requests` of the proposer after each
phase; `stats`; `near`: for each step after which some request had less than a full draft's room below the model's
length, the drafts' lengths by row.
"""

import json
import os
import sys
from dataclasses import asdict
from functools import partial

import drafting

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is read in this very process

MAX_MODEL_LEN = 256
DRAFT_TOKENS = 6


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from vllm import SamplingParams

    preemptions = count_preemptions()
    llm = drafting.make(
        settings["model"],
        DRAFT_TOKENS,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=16,
        max_num_batched_tokens=64,  # prompts are prefilled in chunks
        enable_chunked_prefill=True,
        num_gpu_blocks_override=8,  # of 128 tokens
    )
    from redraft.recipe.vllm.proposer import proposers

    engine, proposer = llm.llm_engine, proposers()[0]
    prompts, responses, open_requests = settings["prompts"], {}, []

    start = partial(drafting.start, engine)

    def run(steps: int | None = None) -> None:
        drafting.run(engine, responses, steps)
        open_requests.append(proposer.stats().requests)

    # Siblings that need more blocks than there are.
    for i, prompt in enumerate(prompts * 2):
        start(f"pressed {i}", prompt, 100)
    run()
    # Aborted in the middle of prefill and of decoding, then resumed with what they had.
    for i, prompt in enumerate(prompts[:4]):
        start(f"aborted {i}", prompt, 60)
    run(steps=8)
    parts = {i: responses.pop(f"aborted {i}", []) for i in range(4)}
    engine.abort_request([f"aborted {i}" for i in range(4)])
    for i, prompt in enumerate(prompts[:4]):
        start(f"resumed {i}", prompt + parts[i], 60 - len(parts[i]))
    run()
    # As far as the model goes, beside others that have room.
    near = watch_near_the_end(proposer)
    for i, prompt in enumerate(prompts[:3]):
        start(f"longest {i}", prompt, MAX_MODEL_LEN - len(prompt))
    while not any(len(responses.get(f"longest {i}", ())) > 120 for i in range(3)):
        run(steps=1)
    for i, prompt in enumerate(prompts[3:]):
        start(f"beside {i}", prompt, 100)
    run()
    stats = asdict(proposer.stats())

    prompt_of = {}
    for name in responses:
        kind, number = name.split()
        i = int(number)
        prompt_of[name] = prompts[(i + 3 * (kind == "beside")) % len(prompts)] + (
            parts[i] if kind == "resumed" else []
        )
    forced = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    ranks = {}
    for name, response in responses.items():
        text = (prompt_of[name] + response)[: MAX_MODEL_LEN - 1]
        output = llm.generate([{"prompt_token_ids": text}], forced, use_tqdm=False)[0]
        steps = output.prompt_logprobs[len(prompt_of[name]) :]
        found = {step[i].rank for i, step in zip(text[len(prompt_of[name]) :], steps, strict=True)}
        ranks[name] = sorted(found)
    result = {
        "preemptions": len(preemptions),
        "responses": responses,
        "parts": list(parts.values()),
        "ranks": ranks,
        "open_requests": open_requests,
        "stats": stats,
        "near": near,
    }
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


def count_preemptions() -> list[int]:
    """Return a list that grows by one entry at each preemption."""
    from vllm.v1.core.sched.scheduler import Scheduler

    seen, preempt = [], Scheduler._preempt_request

    def watched(self, *args, **kwargs):
        seen.append(1)
        return preempt(self, *args, **kwargs)

    Scheduler._preempt_request = watched
    return seen


def watch_near_the_end(proposer):
    """Return a list that grows with every step in which vLLM by itself would verify zeros."""
    seen, propose = [], proposer.propose

    def watched(sampled, num_tokens, *args, **kwargs):
        drafts = propose(sampled, num_tokens, *args, **kwargs)
        if num_tokens[: len(sampled)].max() + DRAFT_TOKENS > MAX_MODEL_LEN:
            seen.append([len(row) for row in drafts])
        return drafts

    proposer.propose = watched
    return seen


if __name__ == "__main__":
    main()
