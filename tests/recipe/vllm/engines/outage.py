"""One engine whose draft server is killed in the middle of a rollout and brought back.

Settings: `model`, `prompts`, `data` (the server's folder). Result: `plain` and `responses` by prompt, in order:
without history, and with the outage; `history`: tokens accepted from history before the kill, while the server was
gone (by prompts that had no index yet), and after its return; `unavailable`: whether the outage was noticed.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is read in this very process

TOKENS = 200


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    process, address = serve(settings["data"], "127.0.0.1:0")
    try:
        result = run(settings, process, address)
    finally:
        process.kill()
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


def run(settings: dict, process: subprocess.Popen, address: str) -> dict:
    from vllm import LLM, SamplingParams

    from redraft.client import Publisher
    from redraft.recipe.vllm.proposer import proposers
    from redraft.rollout import Rollout

    llm = LLM(
        settings["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=4,
        seed=7,
        speculative_config={
            "method": "custom_class",
            "model": "redraft.recipe.vllm.proposer.RedraftProposer",
            "num_speculative_tokens": 4,
        },
        additional_config={"redraft": {"addresses": address, "history_tokens": 0, "min_survival": 0.0}},
    )
    engine, proposer = llm.llm_engine, proposers()[0]
    prompts, responses = settings["prompts"], {}
    greedy = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)

    def start(name: str, at: int) -> None:
        engine.add_request(f"{name} {at}", {"prompt_token_ids": prompts[at]}, greedy)

    def step(count: int = 1 << 30) -> None:
        while count > 0 and engine.has_unfinished_requests():
            for output in engine.step():
                responses[output.request_id] = list(output.outputs[0].token_ids)
            count -= 1

    def accepted() -> int:
        return sum(proposer.stats().accepted["history"])

    def until_indexed(name: str, at: int) -> None:
        """Roll a prompt out, again and again, until history was drafted from."""
        before, deadline = accepted(), time.monotonic() + 120
        while accepted() < before + 50:
            assert time.monotonic() < deadline, "no history was drafted from"
            start(name, at)
            step()

    for at in range(len(prompts)):
        start("plain", at)
    step()
    publisher = Publisher([address], run="default")
    publisher.publish(
        [
            Rollout(np.array(prompt, np.int32), np.array(responses[f"plain {at}"], np.int32), 0, 0, 0)
            for at, prompt in enumerate(prompts)
        ]
    )
    assert publisher.flush(60)
    publisher.close()
    time.sleep(3.0)  # what has just been asked for is asked for again only after a while
    until_indexed("before", 0)
    history = [accepted()]

    start("killed", 0)
    start("killed", 1)
    step(5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    unknown = sum(proposer.stats().accepted["history"])
    start("killed", 2)
    step(20)
    process, _ = serve(settings["data"], address)
    step()
    history.append(accepted() - unknown)
    until_indexed("returned", 3)
    history.append(accepted() - unknown - history[1])
    unavailable = proposer.stats().unavailable
    process.kill()
    return {
        "plain": [responses[f"plain {at}"] for at in range(len(prompts))],
        "responses": {name: tokens for name, tokens in responses.items() if not name.startswith("plain")},
        "history": history,
        "unavailable": unavailable,
    }


def serve(data: str, address: str) -> tuple[subprocess.Popen, str]:
    """Start a draft server and return it with its address once it answers."""
    command = [sys.executable, "-m", "redraft.cli", "serve", "--address", address, "--data", data]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("listening on "), line
    return process, line.split()[-1]


if __name__ == "__main__":
    main()
