"""Chooses the prompts that the policy solves sometimes: only they can teach it anything.

GRPO learns from the differences within a group. A prompt whose responses are all right or all wrong has none, so it
costs rollouts and changes nothing; leaving such prompts out beforehand is common practice.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from redraft.recipe.demo import tasks
from redraft.recipe.demo.data import Problem, encode_prompt, problems

CANDIDATES = 6
"""Problems that are tried for every prompt that is wanted."""
LOWEST, HIGHEST = 0.2, 0.8
"""Pass rates that count as sometimes."""


def choose(
    folder: Path, wanted: int, *, samples: int = 8, longest: int = 160, report: Callable[[int, int], None]
) -> list[Problem]:
    """Return `wanted` problems that the policy in `folder` solves sometimes; remember them there.

    Where there are not enough of them, those whose pass rate is nearest to one half fill up.

    Args:
        folder: a policy of `policy.prepare`.
        wanted: how many problems.
        samples: responses to each candidate, at temperature 1.
        longest: most tokens of a response.
        report: called with (candidates done, candidates).
    """
    memory = folder / f"prompts-{wanted}.json"
    candidates = problems(list(tasks.TASKS.values()), CANDIDATES * wanted)
    if memory.exists():
        return [candidates[index] for index in json.loads(memory.read_text())["chosen"]]
    rates = pass_rates(folder, candidates, samples, longest, report)
    chosen = sometimes(rates, [task.name for task, _ in candidates], wanted)
    memory.write_text(json.dumps({"chosen": chosen, "pass_rates": rates}))
    return [candidates[index] for index in chosen]


def sometimes(rates: Sequence[float], names: Sequence[str], wanted: int) -> list[int]:
    """Return the indexes of `wanted` candidates, in order, the tasks in turn as far as possible.

    Args:
        rates: pass rate of every candidate, 0 to 1.
        names: its task.
        wanted: how many, at most `len(rates)`.
    """
    inside = [i for i, rate in enumerate(rates) if LOWEST <= rate <= HIGHEST]
    queues = [deque(i for i in inside if names[i] == name) for name in dict.fromkeys(names)]
    chosen: list[int] = []
    while len(chosen) < wanted and any(queues):
        chosen.extend(queue.popleft() for queue in queues if queue)
    outside = sorted(set(range(len(rates))) - set(inside), key=lambda i: (abs(rates[i] - 0.5), i))
    return sorted([*chosen, *outside][:wanted])


@torch.inference_mode()
def pass_rates(
    folder: Path,
    candidates: Sequence[Problem],
    samples: int,
    longest: int,
    report: Callable[[int, int], None],
    batch: int = 32,
) -> list[float]:
    """Return the mean score of each candidate over `samples` responses at temperature 1."""
    tokens = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    rates: list[float] = []
    for first in range(0, len(candidates), batch):
        part = candidates[first : first + batch]
        prompts = [
            encode_prompt(tokens, [{"role": "user", "content": entry["question"]}]) for _, entry in part
        ]
        inputs = tokens.pad({"input_ids": prompts}, return_tensors="pt")
        outputs = model.generate(
            **inputs, do_sample=True, top_k=0, num_return_sequences=samples, max_new_tokens=longest
        )
        texts = tokens.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, (task, entry) in enumerate(part):
            scores = [tasks.score(task.name, text, entry) for text in texts[i * samples : (i + 1) * samples]]
            rates.append(sum(scores) / samples)
        report(len(rates), len(candidates))
    return rates
