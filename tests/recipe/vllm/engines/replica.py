"""One of two engines that serve siblings of one group; the second one starts when the first is half way.

Settings: `model`, `prompt`, `address` of the draft server, `first` (whether this is the first one), `half` (file that
the first one writes when it is half way), `done` (file that the second one writes at its end). Result: `response`,
`steps` (engine steps with drafts), `relayed` (tokens that came from the other engine).
"""

import json
import os
import sys
import time
from pathlib import Path

import drafting

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is read in this very process

TOKENS = 200


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from vllm import SamplingParams

    from redraft.recipe.vllm.proposer import proposers

    llm = drafting.make(
        settings["model"],
        8,
        redraft={"addresses": settings["address"], "min_survival": 0.0},
        max_model_len=512,
        max_num_seqs=4,
    )
    engine, proposer = llm.llm_engine, proposers()[0]
    half, done = Path(settings["half"]), Path(settings["done"])
    parameters = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)

    if not settings["first"]:
        wait_for(half.exists)
    engine.add_request("sibling", {"prompt_token_ids": settings["prompt"]}, parameters)
    response: list[int] = []
    told = False
    while engine.has_unfinished_requests():
        for output in engine.step():
            response = list(output.outputs[0].token_ids)
        if settings["first"] and not told and len(response) > TOKENS // 2:
            told = True
            half.write_text("")
            wait_for(done.exists)  # the group lives as long as a request of it does
        if not settings["first"] and not told:
            told = True
            wait_for(lambda: proposer.stats().relayed > TOKENS // 2)
    stats = proposer.stats()
    if not settings["first"]:
        done.write_text("")
    with open(sys.argv[2], "w") as file:
        json.dump({"response": response, "steps": stats.steps, "relayed": stats.relayed}, file)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


if __name__ == "__main__":
    main()
