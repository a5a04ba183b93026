"""Sampling through a whole engine that drafts: chi-square of what it emits against the model's own distribution.

The model has a small vocabulary, so that the distribution over all texts of three tokens can be computed exactly.

Settings: `model`; `budget`: the option; `prompts`: one for each of `temperatures`; `requests` a round; `rounds` of
each. Result, for each temperature: `p_value` over texts; `texts`: how many; `cells`: how many kinds of text had an
expectation of 5 or more; `stats`: the proposer's, up to then; `budget`.
"""

import json
import os
import sys
from collections import Counter
from dataclasses import asdict

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is read in this very process

LENGTH = 3


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from vllm import LLM, SamplingParams

    engine = LLM(
        settings["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=256,
        seed=3,
        speculative_config={
            "method": "custom_class",
            "model": "redraft.recipe.vllm.proposer.RedraftProposer",
            "num_speculative_tokens": 3,
        },
        additional_config={"redraft": {"min_survival": 0.0, "budget": settings["budget"]}},
    )
    from redraft.recipe.vllm.proposer import proposers

    results = []
    for prompt, temperature, rounds in zip(
        settings["prompts"], settings["temperatures"], settings["rounds"], strict=True
    ):
        parameters = SamplingParams(
            temperature=temperature, max_tokens=LENGTH, ignore_eos=True, detokenize=False
        )
        seen = Counter()
        for _ in range(rounds):
            requests = [{"prompt_token_ids": prompt}] * settings["requests"]
            for output in engine.generate(requests, parameters, use_tqdm=False):
                seen[tuple(output.outputs[0].token_ids)] += 1
        p_value, cells = compare(seen, settings["model"], prompt, temperature)
        stats = asdict(proposers()[0].stats())
        results.append(
            {
                "budget": settings["budget"],
                "p_value": p_value,
                "cells": cells,
                "texts": sum(seen.values()),
                "stats": stats,
            }
        )
    with open(sys.argv[2], "w") as file:
        json.dump(results, file)


def compare(seen: Counter, folder: str, prompt: list[int], temperature: float) -> tuple[float, int]:
    """Return the chi-square test's p-value, texts of an expectation below 5 taken together, and its cells."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    size = model.config.vocab_size
    texts, probabilities = torch.zeros(1, 0, dtype=torch.long), torch.ones(1, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(LENGTH):
            rows = torch.cat([torch.tensor([prompt]).expand(len(texts), -1), texts], dim=1)
            logits = model(rows).logits[:, -1].double() / temperature
            probabilities = (probabilities[:, None] * logits.softmax(-1)).flatten()
            texts = torch.cat(
                [texts.repeat_interleave(size, 0), torch.arange(size).repeat(len(texts))[:, None]], 1
            )
    observed = torch.tensor([seen[tuple(text)] for text in texts.tolist()], dtype=torch.float64)
    expected = probabilities * observed.sum()
    common = expected >= 5
    observed = torch.cat([observed[common], observed[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    statistic = ((observed - expected) ** 2 / expected).sum()
    degrees = torch.tensor((len(expected) - 1) / 2.0, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, statistic / 2)), len(expected)


if __name__ == "__main__":
    main()
