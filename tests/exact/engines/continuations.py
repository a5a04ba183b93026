"""Long responses of a whole vLLM engine that drafts, every token against its exact distribution.

The distribution of each token given all before it is computed afterwards from transformers' logits over the very texts
that vLLM wrote (`positions`), so the model may attend to everything, and 10^6 draws take 16,000 texts.

Settings: `model`; `draws`: tokens a case; `cases`: [name, drafter of
`adversary`, variants, factor on `draws`]; a variant is [parameters of vLLM's `SamplingParams`, parameters of
`target.Sampling`], those of a case share each batch, and "seeds" in the first asks for another seed for every request.
Result: by case, the numbers of `positions.judge_positions`, and `texts`, `drafted`, `accepted`, `undecided`
positions, `misplaced`: texts that ended elsewhere than they should, `worst_logprob`: a log-probability's largest error,
`lengths`: of drafts that reached vLLM, `longest`: as long as they may be, `verified`: draft tokens that vLLM had not
cut off, `seconds`: CPU time.
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
from goodness import record
from positions import Float64Array, check, end_of, judge_positions, probabilities, teacher_forced
from target import Sampling

LENGTH, LONGEST, TOGETHER = 64, 8, 256
PROMPT = [3, 4, 5]


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    size = model.config.vocab_size
    adversary.vocab_size = size
    adversary.after.update(usual(model))
    engine = adversary.make_engine(settings["model"], LONGEST, max_model_len=128, max_num_seqs=TOGETHER)
    result: dict[str, Any] = {}
    for number, (name, drafter, variants, share) in enumerate(settings["cases"]):
        adversary.drafter = drafter
        prompt = [*PROMPT, number // size, number % size]  # of its own, so with a history of its own
        draws = int(settings["draws"] * share)
        if drafter in ("known", "avoided"):
            adversary.drafter = "redraft"
            # More than `draws`, as `run` leaves undecided positions out and makes up for them.
            learn(engine, prompt, variants[0], int(draws * 1.03) + 32 * LENGTH)
            adversary.drafter = drafter
        before, start = counts(engine), time.process_time()
        adversary.drafted[:] = []
        case = run(engine, model, prompt, variants, draws)
        case["drafted"] = sum(adversary.drafted)
        case["lengths"] = sorted(set(adversary.drafted))
        after = counts(engine)
        case["verified"], case["accepted"] = (after[i] - before[i] for i in range(2))
        case["longest"] = LONGEST
        case["seconds"] = time.process_time() - start
        result[name] = case
        record("continuations", name, case)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


def usual(model: Any) -> dict[int, tuple[int, int]]:
    """Return the likeliest and the unlikeliest token after each one, by the mean of logits after texts at random."""
    size = model.config.vocab_size
    texts = torch.randint(0, size, (256, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows = model(texts).logits.flatten(0, 1)
    means = [rows[texts.flatten() == token].mean(0) for token in range(size)]
    return {token: (int(mean.argmax()), int(mean.argmin())) for token, mean in enumerate(means)}


def run(engine: Any, model: Any, prompt: list[int], variants: list[Any], draws: int) -> dict[str, Any]:
    """Generate responses until their tokens are `draws`, and judge them."""
    size, ask = model.config.vocab_size, [complete(given) for given, _ in variants]
    targets = [Sampling(**target) for _, target in variants]
    exact_prompt = torch.log_softmax(model(torch.tensor([prompt])).logits[0].detach().double(), -1)
    parts: list[tuple[np.ndarray, Float64Array, np.ndarray]] = []
    found = asked = undecided = misplaced = texts = 0
    worst = 0.0
    while found < draws:
        each = ask[0].get("n", 1)
        count = batch(draws - found) // each
        outputs = generate(engine, prompt, ask, asked, count)
        asked += count
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


def complete(given: dict[str, Any]) -> dict[str, Any]:
    """Return parameters for `SamplingParams`, short of seeds."""
    from vllm.sampling_params import StructuredOutputsParams

    given = {"max_tokens": LENGTH, "ignore_eos": True, "detokenize": False, **given}
    if "structured_outputs" in given:
        given["structured_outputs"] = StructuredOutputsParams(**given["structured_outputs"])
    return given


def batch(left: int) -> int:
    """Return how many responses to write at once for so many tokens that are still wanted."""
    return min(2048, max(32, int(left / LENGTH * 1.02)))


def generate(engine: Any, prompt: list[int], ask: list[dict[str, Any]], first: int, count: int) -> list[Any]:
    """Return vLLM's outputs for `count` requests, variants by turns, where seeds are wanted from `first` on."""
    from vllm import SamplingParams

    requests = []
    for i in range(count):
        given = dict(ask[i % len(ask)])
        if given.pop("seeds", False):
            given["seed"] = first + i
        requests.append(SamplingParams(**given))
    outputs: list[Any] = engine.generate([{"prompt_token_ids": prompt}] * count, requests, use_tqdm=False)
    return outputs


def learn(engine: Any, prompt: list[int], variant: Any, draws: int) -> None:
    """Have written what the seeds of `run` will write, and let the adversary know."""
    ask, asked, found = [complete(variant[0])], 0, 0
    adversary.texts.clear()
    while found < draws:
        count = batch(draws - found)
        for i, output in enumerate(generate(engine, prompt, ask, asked, count)):
            adversary.texts[asked + i] = list(output.outputs[0].token_ids)
            found += len(adversary.texts[asked + i])
        asked += count


def counts(engine: Any) -> tuple[int, int]:
    """Return vLLM's own count of the draft tokens that it verified, and of those that it accepted."""
    values = {metric.name: metric for metric in engine.get_metrics()}
    names = ("vllm:spec_decode_num_draft_tokens", "vllm:spec_decode_num_accepted_tokens")
    return tuple(int(values[name].value) for name in names)


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
