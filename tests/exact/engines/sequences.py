"""Responses of a whole vLLM engine that drafts, against the exact probabilities of all responses.

The model is a real one with a vocabulary of few tokens, so that every response of `LENGTH` tokens can be enumerated;
its probabilities are transformers' in float64 arithmetic after the forward pass.

Settings: `model`; `prompt`; `requests`: responses a case; `cases`: [name, drafter of `adversary`, parameters of
vLLM's `SamplingParams`, parameters of `target.Sampling`, factor on `requests`]; a case whose vLLM parameters hold
"seeds" gets another seed for every request. Result: `cases`: by name, `goodness.judge`'s numbers, `drafted` and
`accepted` tokens, `length_p_value`: chi-square over the lengths of responses, and `worst_logprob`: the largest error of
a returned log-probability; `refused`: vLLM's messages. Each case has a prompt of its own, which begins with `prompt`.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is read in this very process

import adversary
import numpy as np
import torch
from goodness import chi_square, judge, record
from target import Logits, Sampling, all_texts, cells

LENGTH, LONGEST = 4, 4


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    size = model.config.vocab_size
    adversary.vocab_size = size
    engine = adversary.make_engine(
        settings["model"],
        LONGEST,
        max_model_len=64,
        max_num_seqs=128,  # later requests find what earlier ones wrote
    )
    result: dict[str, Any] = {"cases": {}, "refused": {}}
    for number, (name, drafter, parameters, target, share) in enumerate(settings["cases"]):
        adversary.drafter = drafter
        prompt = [
            *settings["prompt"],
            number // size,
            number % size,
        ]  # of its own, so with a history of its own
        table = all_logits(model, prompt)
        with torch.no_grad():
            prompt_log_probabilities = model(torch.tensor([prompt])).logits[0].double().log_softmax(-1)
        for text, row in table.items():
            adversary.following[text] = (int(np.argmax(row)), int(np.argmin(row)))
        requests = max(1, int(settings["requests"] * share))
        result["cases"][name] = run(
            engine, prompt, parameters, Sampling(**target), requests, table, size, prompt_log_probabilities
        )
        record("sequences", name, result["cases"][name])
    adversary.drafter = "redraft"
    for name, parameters in settings["refused"].items():
        result["refused"][name] = refusal(engine, settings["prompt"], parameters)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


def all_logits(model: Any, prompt: list[int]) -> dict[tuple[int, ...], np.ndarray]:
    """Return the next token's logits after every response shorter than `LENGTH`."""
    size = model.config.vocab_size
    table: dict[tuple[int, ...], np.ndarray] = {}
    texts: list[tuple[int, ...]] = [()]
    with torch.no_grad():
        for _ in range(LENGTH):
            logits = model(torch.tensor([[*prompt, *text] for text in texts])).logits[:, -1].double()
            table.update(zip(texts, logits.numpy(), strict=True))
            texts = [(*text, token) for text in texts for token in range(size)]
    return table


def run(
    engine: Any,
    prompt: list[int],
    parameters: dict[str, Any],
    target: Sampling,
    requests: int,
    table: dict[tuple[int, ...], np.ndarray],
    size: int,
    prompt_log_probabilities: torch.Tensor,
) -> dict[str, Any]:
    """Generate `requests` responses and judge them."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    def logits(text: tuple[int, ...]) -> np.ndarray:
        return table[text]

    parameters = {"max_tokens": LENGTH, "ignore_eos": True, "detokenize": False, **parameters}
    if "structured_outputs" in parameters:
        parameters["structured_outputs"] = StructuredOutputsParams(**parameters["structured_outputs"])
    seeds = parameters.pop("seeds", False)
    before, adversary.drafted[:] = accepted_so_far(engine), []
    seen: Counter[tuple[int, ...]] = Counter()
    worst, texts = 0.0, 0
    each = parameters.get("n", 1)
    for begin in range(0, requests, 4096):
        count = min(4096, requests - begin) // each
        sampling = [
            SamplingParams(**parameters, **({"seed": begin + i} if seeds else {})) for i in range(count)
        ]
        outputs = engine.generate([{"prompt_token_ids": prompt}] * count, sampling, use_tqdm=False)
        for output in outputs:
            for completion in output.outputs:
                seen[tuple(completion.token_ids)] += 1
                worst = max(worst, logprob_error(completion, logits))
            worst = max(worst, prompt_error(output, prompt, prompt_log_probabilities))
        texts += count * each
    ordered, probabilities = cells(all_texts(logits, target, prompt, size, parameters["max_tokens"]))
    place = {text: i for i, text in enumerate(ordered)}
    strange = [text for text in seen if text not in place]
    observed = np.array([seen[text] for text in ordered])
    judged = judge(observed, probabilities)
    lengths = np.array([len(text) for text in ordered])
    by_length, _ = chi_square(
        np.bincount(lengths, observed).astype(np.int64), np.bincount(lengths, probabilities)
    )
    return {
        **judged,
        "length_p_value": by_length,
        "strange": strange[:5],
        "asked": texts,
        "drafted": sum(adversary.drafted),
        "accepted": accepted_so_far(engine) - before,
        "worst_logprob": float(worst),
        "possible": int((probabilities > 0).sum()),
    }


def logprob_error(completion: Any, logits: Logits) -> float:
    """Return the largest error of the sampled tokens' log-probabilities, 0 when none were asked for."""
    if completion.logprobs is None:
        return 0.0
    tokens, worst = tuple(completion.token_ids), 0.0
    assert len(completion.logprobs) == len(tokens), (tokens, completion.logprobs)
    for i, (token, values) in enumerate(zip(tokens, completion.logprobs, strict=True)):
        row = logits(tokens[:i])
        exact = row - np.log(np.exp(row - row.max()).sum()) - row.max()
        assert token in values
        for candidate, value in values.items():
            worst = max(worst, abs(value.logprob - exact[candidate]))
    return worst


def prompt_error(output: Any, prompt: list[int], exact: torch.Tensor) -> float:
    """Likewise for the prompt's."""
    if output.prompt_logprobs is None:
        return 0.0
    return max(
        abs(values[token].logprob - float(exact[i, token]))
        for i, (token, values) in enumerate(zip(prompt[1:], output.prompt_logprobs[1:], strict=True))
    )


def accepted_so_far(engine: Any) -> int:
    """Return vLLM's own count of accepted draft tokens."""
    return sum(
        int(metric.value)
        for metric in engine.get_metrics()
        if metric.name == "vllm:spec_decode_num_accepted_tokens"
    )


def refusal(engine: Any, prompt: list[int], parameters: dict[str, Any]) -> str:
    """Return the message with which vLLM refuses a request, "" if it does not."""
    from vllm import SamplingParams

    if "logit_bias" in parameters:  # JSON makes its keys strings
        parameters = {"logit_bias": {int(token): bias for token, bias in parameters["logit_bias"].items()}}
    try:
        engine.generate(
            [{"prompt_token_ids": prompt}], SamplingParams(max_tokens=2, **parameters), use_tqdm=False
        )
    except Exception as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
