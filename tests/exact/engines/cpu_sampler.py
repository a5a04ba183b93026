"""vLLM's rejection sampler by itself: chi-square of what it emits against the target, over 20,000 requests.

Result: `broken`: the probe's verdict on vLLM as it is; `stock`, `repaired`: p-values, one for each sampling
setting and position, before and after `redraft.recipe.vllm.cpu_sampler`; `repairs`: what it did, called twice;
`without_drafts`: whether a step without drafts `fails`, what its repair did, called twice, and the `shape` of what
comes out then.
"""

import json
import sys
from types import SimpleNamespace

import torch
import vllm.v1.sample.rejection_sampler as sampler
from vllm.platforms import current_platform

from redraft.recipe.vllm import cpu_sampler

VOCAB_SIZE, LONGEST, REQUESTS = 12, 3, 20_000


def p_value(observed: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Pearson's chi-square; tokens of probability 0 must not occur."""
    possible = probabilities > 0
    if observed[~possible].any():
        return 0.0
    expected = probabilities[possible].double() * observed.sum()
    statistic = ((observed[possible] - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((possible.sum() - 1) / 2.0).double(), statistic / 2))


def constrain(
    logits: torch.Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> torch.Tensor:
    """The target's probabilities, written down independently of vLLM."""
    probabilities = (logits / temperature).softmax(-1)
    if top_k is not None:
        probabilities = torch.where(probabilities >= probabilities.topk(top_k).values[-1], probabilities, 0.0)
        probabilities /= probabilities.sum()
    if top_p is not None:
        ordered, order = probabilities.sort(descending=True)
        kept = ordered.cumsum(0) - ordered < top_p
        probabilities = torch.zeros_like(probabilities).scatter(0, order[kept], ordered[kept])
    return probabilities / probabilities.sum()


def sample(temperature: float, top_k: int | None, top_p: float | None) -> list[float]:
    """Verify ragged drafts (0 to 3 tokens a request) and return a p-value for each emitted position."""
    target = torch.randn(LONGEST, VOCAB_SIZE) * 1.5
    bonus = torch.randn(VOCAB_SIZE)
    draft = target.argmax(-1)
    lengths = torch.arange(REQUESTS) % (LONGEST + 1)
    cumulative = lengths.cumsum(0).to(torch.int32)
    columns = torch.cat([torch.arange(int(n)) for n in lengths])
    metadata = SimpleNamespace(
        all_greedy=False,
        all_random=True,
        temperature=torch.full((REQUESTS,), temperature),
        top_k=None if top_k is None else torch.full((REQUESTS,), top_k, dtype=torch.int32),
        top_p=None if top_p is None else torch.full((REQUESTS,), top_p),
        generators={},
    )
    logits = sampler.apply_sampling_constraints(target[columns].clone(), cumulative, metadata)
    bonus_ids = torch.multinomial((bonus / temperature).softmax(-1), REQUESTS, replacement=True)
    emitted = sampler.rejection_sample(
        draft[columns].to(torch.int32),
        lengths.tolist(),
        LONGEST,
        cumulative,
        None,
        logits,
        bonus_ids.view(-1, 1).to(torch.int32),
        metadata,
    )
    p_values = []
    alive = torch.ones(REQUESTS, dtype=torch.bool)
    for position in range(LONGEST):
        alive &= lengths > position
        tokens = emitted[alive, position].long()
        if not bool(((tokens >= 0) & (tokens < VOCAB_SIZE)).all()):
            return [*p_values, 0.0]
        expected = constrain(target[position], temperature, top_k, top_p)
        p_values.append(p_value(torch.bincount(tokens, minlength=VOCAB_SIZE).double(), expected))
        alive &= emitted[:, position] == draft[position]
    return p_values


def try_to_sample(*setting: float | None) -> list[float]:
    """As `sample`, and p = 0 where the unrepaired sampler finds its garbage impossible."""
    try:
        return sample(*setting)
    except RuntimeError:
        return [0.0]


if __name__ == "__main__":
    current_platform.register_triton_kernel_overrides()
    result = {"broken": cpu_sampler.is_broken(sampler)}
    for state in ("stock", "repaired"):
        if state == "repaired":
            result["repairs"] = [cpu_sampler.repair(sampler), cpu_sampler.repair(sampler)]
        torch.manual_seed(1)
        result[state] = {
            f"temperature {t}, top_k {k}, top_p {p}": try_to_sample(t, k, p)
            for t, k, p in [
                (1.0, None, None),
                (0.6, None, None),
                (1.0, 5, None),
                (1.0, None, 0.8),
                (0.8, 6, 0.9),
            ]
        }
    result["without_drafts"] = {
        "fails": cpu_sampler.fails_without_drafts(sampler),
        "repairs": [cpu_sampler.allow_steps_without_drafts(sampler) for _ in range(2)],
        "shape": list(
            sampler.apply_sampling_constraints(
                torch.zeros(0, VOCAB_SIZE),
                torch.zeros(2, dtype=torch.int32),
                SimpleNamespace(
                    all_greedy=False,
                    temperature=torch.ones(2),
                    top_k=torch.full((2,), 3, dtype=torch.int32),
                    top_p=None,
                ),
            ).shape
        ),
    }
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)
