"""One drafting engine that gets other weights in the middle of rollouts: awake, asleep, and with requests aborted.

Settings: `model`; `prompts`. Result: for each of `KINDS`: `ranks` (those of the tokens written since the weights came,
under these weights, by teacher forcing), `lengths`, `accepted` (draft tokens, by then in all), `open` (requests and
groups of the proposer); `parts` (kind -> lengths when the weights came); `after_abort` (requests of the proposer, one
step after those that were aborted were resumed).
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import drafting

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is read in this very process

TOKENS = 90

KINDS = ("loaded", "kept", "aborted", "fresh")
"""Weights loaded under running requests; likewise while the engine slept; requests aborted while it slept and resumed
with what they had; the same prompts once more."""


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    import torch
    from safetensors.torch import load_file
    from vllm import SamplingParams

    from redraft.recipe.cpu import plain_linear
    from redraft.recipe.vllm.proposer import proposers

    plain_linear.register()  # vLLM's packed weights can't be loaded again on a CPU
    llm = drafting.make(settings["model"], max_model_len=256, max_num_seqs=16)
    engine, proposer, prompts = llm.llm_engine, proposers()[0], settings["prompts"]
    texts: dict[str, list[int]] = {}
    result: dict[str, object] = {"parts": {}}

    start, run = partial(drafting.start, engine), partial(drafting.run, engine, texts)

    def change_weights(seed: int) -> None:
        """Load weights with which every token means another one, the way a trainer brings its own."""
        weights = load_file(Path(settings["model"]) / "model.safetensors")
        rows = torch.randperm(1024, generator=torch.Generator().manual_seed(seed))
        weights["lm_head.weight"] = weights["lm_head.weight"][rows]
        llm.apply_model(lambda model: bool(model.load_weights(weights.items())))

    def note(kind: str, written: dict[str, tuple[list[int], list[int]]]) -> None:
        """Take down how a phase went; `written`: request -> (what was there, what was written since)."""
        stats = proposer.stats()
        forced = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        ranks = set()
        for before, since in written.values():
            prompt = {"prompt_token_ids": before + since}
            output = llm.generate([prompt], forced, use_tqdm=False)[0]
            steps = output.prompt_logprobs[len(before) :]
            ranks |= {step[i].rank for i, step in zip(since, steps, strict=True)}
        result[kind] = {
            "ranks": sorted(ranks),
            "lengths": sorted({len(before) + len(since) for before, since in written.values()}),
            "accepted": sum(map(sum, stats.accepted.values())),
            "open": [proposer.stats().requests, proposer.stats().groups],
        }

    def go_on(kind: str, seed: int, asleep: bool) -> None:
        """Change weights under requests that go on: what they have stays, what follows is the new weights'."""
        texts.clear()
        for i, prompt in enumerate(prompts * 2):
            start(f"{kind} {i}", prompt, TOKENS)
        run(steps=20)
        parts = {name: list(text) for name, text in texts.items()}
        if asleep:
            llm.sleep(level=1, mode="keep")
        change_weights(seed)
        if asleep:
            llm.wake_up()
        run()
        result["parts"][kind] = [len(part) for part in parts.values()]
        written = {}
        for name, part in parts.items():
            prompt = prompts[int(name.split()[1]) % len(prompts)]
            written[name] = prompt + part, texts[name][len(part) :]
        note(kind, written)

    go_on("loaded", 1, asleep=False)
    go_on("kept", 2, asleep=True)

    # Requests are aborted, and resumed with what they had as part of the prompt.
    texts.clear()
    for i, prompt in enumerate(prompts * 2):
        start(f"aborted {i}", prompt, TOKENS)
    run(steps=20)
    parts = {name: list(text) for name, text in texts.items()}
    llm.sleep(level=1, mode="abort")
    engine.abort_request(list(parts))  # in one process nobody else tells the front end
    change_weights(3)
    llm.wake_up()
    llm.reset_prefix_cache()
    texts.clear()
    before = {}
    for name, part in parts.items():
        i = int(name.split()[1])
        before[f"resumed {i}"] = prompts[i % len(prompts)] + part
        start(f"resumed {i}", before[f"resumed {i}"], TOKENS - len(part))
    run(steps=1)
    result["after_abort"] = proposer.stats().requests
    run()
    result["parts"]["aborted"] = [len(part) for part in parts.values()]
    note("aborted", {name: (before[name], text) for name, text in texts.items()})

    # And the same prompts once more.
    texts.clear()
    for i, prompt in enumerate(prompts * 2):
        start(f"fresh {i}", prompt, TOKENS)
    run()
    note(
        "fresh", {name: (prompts[int(name.split()[1]) % len(prompts)], text) for name, text in texts.items()}
    )
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
