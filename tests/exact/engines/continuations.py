"""Long responses of a whole vLLM engine that drafts, every token against its exact distribution.

The distribution of each token given all before it is computed afterwards from transformers' logits over the very texts
that vLLM wrote (`positions`), so the model may attend to everything, and 10^6 draws take 16,000 texts.

Settings: `model`; `draws`: tokens a case; `keyed`: whether position-keyed sampling is on; `cases`: [name, drafter of
`adversary`, variants, factor on `draws`]; a variant is [parameters of vLLM's `SamplingParams`, parameters of
`target.Sampling`], those of a case share each batch, and "seeds" in the first asks for another seed for every request.
Result: by case, the numbers of `positions.judge_positions`, and `texts`, `drafted`, `accepted`, `undecided` positions,
`misplaced`: texts that ended elsewhere than they should, `worst_logprob`: the largest error of a returned log-probability,
`lengths`: of drafts that reached vLLM, `seconds`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is read in this very process

import adversary
import numpy as np
import torch
from positions import Float64Array, check, end_of, judge_positions, probabilities, teacher_forced
from sequences import accepted_so_far
from target import Sampling

LENGTH, LONGEST, TOGETHER = 64, 4, 256
PROMPT = [3, 4, 5]


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from transformers import AutoModelForCausalLM
    from vllm import LLM

    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    size = model.config.vocab_size
    adversary.vocab_size = size
    rows = model(torch.arange(size)[:, None]).logits[:, 0]
    adversary.after.update({i: (int(row.argmax()), int(row.argmin())) for i, row in enumerate(rows.detach())})
    engine = LLM(
        settings["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=settings.get("max_model_len", 128),
        max_num_seqs=TOGETHER,
        max_num_batched_tokens=8192,
        seed=3,
        disable_log_stats=False,
        speculative_config={
            "method": "custom_class",
            "model": "adversary.Adversary",
            "num_speculative_tokens": LONGEST,
        },
        additional_config={"redraft": {"min_survival": 0.0, "budget": -1}},
    )
    result: dict[str, Any] = {}
    for number, (name, drafter, variants, share) in enumerate(settings["cases"]):
        adversary.drafter = drafter
        prompt = [*PROMPT, number // size, number % size]  # of its own, so with a history of its own
        before, start = accepted_so_far(engine), time.process_time()
        adversary.drafted[:] = []
        case = run(engine, model, prompt, variants, int(settings["draws"] * share))
        case["drafted"] = sum(adversary.drafted)
        case["lengths"] = sorted(set(adversary.drafted))
        case["accepted"] = accepted_so_far(engine) - before
        case["seconds"] = time.process_time() - start
        result[name] = case
        print(name, case, flush=True)  # of use when a long run is cut off
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


def run(engine: Any, model: Any, prompt: list[int], variants: list[Any], draws: int) -> dict[str, Any]:
    """Generate responses until their tokens are `draws`, and judge them."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    size, ask = model.config.vocab_size, []
    for given, _ in variants:
        given = {"max_tokens": LENGTH, "ignore_eos": True, "detokenize": False, **given}
        if "structured_outputs" in given:
            given["structured_outputs"] = StructuredOutputsParams(**given["structured_outputs"])
        ask.append(given)
    targets = [Sampling(**target) for _, target in variants]
    exact_prompt = torch.log_softmax(model(torch.tensor([prompt])).logits[0].detach().double(), -1)
    parts: list[tuple[np.ndarray, Float64Array, np.ndarray]] = []
    found = asked = undecided = misplaced = texts = 0
    worst = 0.0
    while found < draws:
        each = ask[0].get("n", 1)
        count = min(2048, max(32, int((draws - found) / LENGTH * 1.02))) // each
        requests = []
        for i in range(count):
            given = dict(ask[i % len(ask)])
            if given.pop("seeds", False):
                given["seed"] = asked + i
            requests.append(SamplingParams(**given))
        asked += count
        outputs = engine.generate([{"prompt_token_ids": prompt}] * count, requests, use_tqdm=False)
        for which, target in enumerate(targets):
            completions = [c for output in outputs[which :: len(targets)] for c in output.outputs]
            written = [list(c.token_ids) for c in completions]
            longest = ask[which]["max_tokens"]
            misplaced += sum(end_of(text, target, longest) != len(text) for text in written)
            padded = np.array([text + [0] * (LENGTH - len(text)) for text in written])
            inside = np.arange(LENGTH) < np.array([len(text) for text in written])[:, None]
            logits = teacher_forced(model, prompt, padded)
            exact, decided = probabilities(logits, target, prompt, padded)
            if not parts:
                check(exact[:4], logits[:4], target, prompt, padded[:4])
            if ask[which].get("logprobs") is not None:
                worst = max(worst, logprob_error(completions, torch.from_numpy(logits)))
            classes = (
                np.concatenate([np.full((len(padded), 1), prompt[-1]), padded[:, :-1]], 1) + which * size
            )
            kept = inside & decided
            undecided += int((inside & ~decided).sum())
            found += int(kept.sum())
            texts += len(written)
            parts.append((padded[kept], exact[kept], classes[kept]))
        for output in outputs:
            if output.prompt_logprobs is not None:
                worst = max(worst, prompt_error(output, prompt, exact_prompt))
    judged = judge_positions(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return {
        **judged,
        "texts": texts,
        "undecided": undecided,
        "misplaced": misplaced,
        "worst_logprob": float(worst),
    }


def logprob_error(completions: list[Any], logits: torch.Tensor) -> float:
    """Return the largest error of the log-probabilities that came with the tokens."""
    rows, columns, values, places = [], [], [], []
    for i, completion in enumerate(completions):
        assert len(completion.logprobs) == len(completion.token_ids)
        for j, (token, step) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
            assert token in step
            for other, value in step.items():
                rows.append(i)
                places.append(j)
                columns.append(other)
                values.append(value.logprob)
    exact = torch.log_softmax(logits, -1)[rows, places, columns]
    return float((exact - torch.tensor(values, dtype=torch.float64)).abs().max())


def prompt_error(output: Any, prompt: list[int], exact: torch.Tensor) -> float:
    """Likewise for the prompt's."""
    assert len(output.prompt_logprobs) == len(prompt)
    return max(
        abs(values[token].logprob - float(exact[i, token]))
        for i, (token, values) in enumerate(zip(prompt[1:], output.prompt_logprobs[1:], strict=True))
    )


if __name__ == "__main__":
    main()
