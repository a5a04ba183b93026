"""Texts written by vLLM's real `Sampler` and `RejectionSampler`, step by step as its engine does, against exact
probabilities of whole texts.

The model is a table: the next token's logits depend on the last token only. Everything else is vLLM's: which
token is sampled, accepted or recovered, penalties, constraints, and what happens to rows of the batch that draft
nothing. Drafts come from `DRAFTERS`.

Settings: `cases`: [name, drafter, parameters of `target.Sampling` and "seeds", "keyed", "greedy_neighbours"]; `draws`:
texts a case; `controls`: also sample with samplers that are wrong on purpose. Result: by case, `goodness.judge`'s
numbers and `accepted`, `drafted` tokens; `controls`: the same by the name of what is wrong.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import vllm.v1.sample.rejection_sampler as rejection
from goodness import judge, record
from target import Sampling, all_texts, cells
from vllm.platforms import current_platform
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from redraft.recipe.vllm import cpu_sampler
from redraft.recipe.vllm.keyed_sampling import sample_positions

VOCAB_SIZE, LENGTH, LONGEST, ROWS = 6, 4, 4, 32_768
PROMPT = [2, 3]

table = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=torch.Generator().manual_seed(4)) * 1.2
likeliest = table.argmax(-1)
unlikeliest = table.argmin(-1)


def walk(last: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Return int64 (b, LONGEST): after each row's last token the one that `following` names, and so on."""
    columns = [last]
    for _ in range(LONGEST):
        columns.append(following[columns[-1]])
    return torch.stack(columns[1:], 1)


def lengths_at_random(rows: int) -> torch.Tensor:
    return torch.randint(0, LONGEST + 1, (rows,))


DRAFTERS: dict[str, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    # Plain decoding: vLLM's `Sampler` alone. With "nothing" its `RejectionSampler` runs, and finds no drafts.
    "no speculation": lambda last: (walk(last, likeliest), torch.zeros_like(last)),
    "likeliest": lambda last: (walk(last, likeliest), torch.full_like(last, LONGEST)),
    "unlikeliest": lambda last: (walk(last, unlikeliest), torch.full_like(last, LONGEST)),
    "one token": lambda last: (walk(last, likeliest), torch.ones_like(last)),
    "nothing": lambda last: (walk(last, likeliest), torch.zeros_like(last)),
    "ragged, at random": lambda last: (
        torch.randint(0, VOCAB_SIZE, (len(last), LONGEST)),
        lengths_at_random(len(last)),
    ),
    "ragged, likeliest": lambda last: (walk(last, likeliest), lengths_at_random(len(last))),
}


class Loop:
    """The steps of an engine for `rows` requests of the same prompt and parameters.

    Args:
        sampling: parameters of every row (of every second one with `greedy_neighbours`).
        seeds: give each row a generator of its own, as vLLM does for requests with a seed.
        greedy_neighbours: every second row is greedy.
        first_seed: the first row's.
        plain: leave the rejection sampler out.
        keyed: sample by position (`redraft.recipe.vllm.keyed_sampling`), row i with the seed `first_seed` + i.
    """

    def __init__(
        self,
        sampling: Sampling,
        rows: int,
        seeds: bool,
        greedy_neighbours: bool,
        first_seed: int,
        plain: bool,
        keyed: bool,
    ):
        self.sampling, self.rows, self.plain, self.keyed = sampling, rows, plain, keyed
        self.first_seed = first_seed
        self.temperature = torch.full((rows,), sampling.temperature)
        if greedy_neighbours:
            self.temperature[1::2] = 0.0
        generators = range(rows) if seeds else ()
        self.generators = {i: torch.Generator().manual_seed(first_seed + i) for i in generators}
        self.penalised = (
            sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1
        )
        self.sampler = Sampler()
        self.rejection_sampler = rejection.RejectionSampler(self.sampler)
        self.drafted = self.accepted = 0

    def run(self, drafter: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Return int64 (rows, LENGTH)."""
        texts = torch.full((self.rows, LENGTH + LONGEST + 1), -1)
        known = torch.zeros(self.rows, dtype=torch.long)
        while bool((known < LENGTH).any()):
            rows = (known < LENGTH).nonzero().flatten()
            last = torch.where(
                known[rows] > 0, texts[rows, (known[rows] - 1).clamp(min=0)], torch.tensor(PROMPT[-1])
            )
            drafts, counts = drafter(last)
            emitted = self.step(rows, texts, known, last, drafts, counts)
            valid = emitted >= 0
            self.drafted += int(counts.sum())
            self.accepted += int(valid.sum()) - len(rows)
            places = known[rows, None] + torch.arange(emitted.shape[1])
            texts[rows[:, None].expand_as(emitted)[valid], places[valid]] = emitted[valid]
            known[rows] += valid.sum(1)
        return texts[:, :LENGTH]

    def step(
        self,
        rows: torch.Tensor,
        texts: torch.Tensor,
        known: torch.Tensor,
        last: torch.Tensor,
        drafts: torch.Tensor,
        counts: torch.Tensor,
    ) -> torch.Tensor:
        """Verify each row's draft; return int64 (b, most tokens), -1 behind what a row emitted."""
        b = len(rows)
        inside = torch.arange(LONGEST) < counts[:, None]
        flat = drafts[inside]
        # Row i's logits: after its last token, then after each draft token.
        before = torch.cat([last[:, None], drafts], 1)[torch.arange(LONGEST + 1) <= counts[:, None]]
        logits = table[before].clone()
        metadata = self.metadata(rows, texts, known, drafts, counts)
        if self.keyed:
            begins = {i: (self.first_seed + row, int(known[row])) for i, row in enumerate(rows.tolist())}
            output = sample_positions(self.sampler, logits, metadata, flat, counts.tolist(), begins)
            return output.sampled_token_ids.long()
        if self.plain:
            return self.sampler(logits, metadata).sampled_token_ids.long()
        ends = (counts + 1).cumsum(0)
        bonus = ends - 1
        target = torch.ones(len(logits), dtype=torch.bool)
        target[bonus] = False
        verified = SpecDecodeMetadata(
            draft_token_ids=flat.to(torch.int32),
            num_draft_tokens=counts.tolist(),
            cu_num_draft_tokens=counts.cumsum(0).to(torch.int32),
            cu_num_sampled_tokens=ends.to(torch.int32),
            target_logits_indices=target.nonzero().flatten().to(torch.int32),
            bonus_logits_indices=bonus.to(torch.int32),
            logits_indices=torch.arange(len(logits), dtype=torch.int32),
        )
        emitted = self.rejection_sampler(verified, None, logits, metadata).sampled_token_ids.long()
        assert emitted.shape[0] == b
        return emitted

    def metadata(
        self,
        rows: torch.Tensor,
        texts: torch.Tensor,
        known: torch.Tensor,
        drafts: torch.Tensor,
        counts: torch.Tensor,
    ) -> SamplingMetadata:
        """What vLLM's input batch hands to the sampler for these rows."""
        s, b = self.sampling, len(rows)
        temperature = self.temperature[rows]
        mask = None
        if s.allowed_token_ids:
            mask = torch.ones(b, VOCAB_SIZE, dtype=torch.bool)
            mask[:, list(s.allowed_token_ids)] = False
        outputs: list[list[int]] = []
        spec: list[list[int]] = []
        if self.penalised or s.bad_words:
            written, drafted = texts[rows].tolist(), drafts.tolist()
            outputs = [text[:n] for text, n in zip(written, known[rows].tolist(), strict=True)]
            spec = [draft[:n] for draft, n in zip(drafted, counts.tolist(), strict=True)]
        return SamplingMetadata(
            temperature=temperature,
            all_greedy=bool((temperature == 0).all()),
            all_random=bool((temperature > 0).all()),
            top_p=torch.full((b,), s.top_p) if s.top_p < 1 else None,
            top_k=torch.full((b,), s.top_k, dtype=torch.int32) if s.top_k else None,
            generators={i: self.generators[row] for i, row in enumerate(rows.tolist())}
            if self.generators
            else {},
            max_num_logprobs=None,
            no_penalties=not self.penalised,
            prompt_token_ids=torch.tensor([PROMPT]).expand(b, -1).contiguous() if self.penalised else None,
            frequency_penalties=torch.full((b,), s.frequency_penalty),
            presence_penalties=torch.full((b,), s.presence_penalty),
            repetition_penalties=torch.full((b,), s.repetition_penalty),
            output_token_ids=outputs,
            allowed_token_ids_mask=mask,
            bad_words_token_ids={i: [list(word) for word in s.bad_words] for i in range(b)}
            if s.bad_words
            else {},
            logitsprocs=LogitsProcessors(),
            spec_token_ids=spec,
        )


def draw(case: dict[str, Any], drafter: str, draws: int) -> dict[str, float]:
    """Write `draws` texts and judge them."""
    case = dict(case)
    seeds, neighbours = case.pop("seeds", False), case.pop("greedy_neighbours", False)
    keyed = case.pop("keyed", False)
    sampling = Sampling(**case)

    def logits(text: tuple[int, ...]) -> np.ndarray:
        return table[text[-1] if text else PROMPT[-1]].double().numpy()

    texts, probabilities = cells(all_texts(logits, sampling, PROMPT, VOCAB_SIZE, LENGTH))
    counts: Counter[tuple[int, ...]] = Counter()
    drafted = accepted = done = 0
    powers = VOCAB_SIZE ** torch.arange(LENGTH - 1, -1, -1)
    observed = torch.zeros(VOCAB_SIZE**LENGTH, dtype=torch.long)
    while done < draws:
        rows = min(ROWS, (draws - done) * (2 if neighbours else 1))
        loop = Loop(sampling, rows, seeds, neighbours, done, drafter == "no speculation", keyed)
        written = loop.run(DRAFTERS[drafter])
        if neighbours:
            greedy = written[1::2]
            assert bool((greedy == walk(torch.tensor([PROMPT[-1]]), likeliest)).all()), (
                "greedy rows went astray"
            )
            written = written[::2]
        observed += torch.bincount((written * powers).sum(1), minlength=len(observed))
        done += len(written)
        drafted, accepted = drafted + loop.drafted, accepted + loop.accepted
    assert len(texts) == len(observed), counts
    return {**judge(observed.numpy(), probabilities), "drafted": drafted, "accepted": accepted}


@contextmanager
def wrong(name: str):
    """Make vLLM's rejection sampler wrong in one respect."""
    uniform, recover, expand = (
        rejection.generate_uniform_probs,
        rejection.sample_recovered_tokens,
        rejection.expand_batch_to_tokens,
    )

    def expand_hotter(x, *args, **others):
        return expand(x, *args, **others) * (1.2 if x.dtype == torch.float32 else 1)

    def recover_anything(longest, counts, cumulative, drafts, draft_probs, probs, *args):
        return torch.multinomial(probs, 1).flatten().to(drafts.dtype)

    if name == "drafts are accepted too often":
        rejection.generate_uniform_probs = lambda *args: uniform(*args) * 0.9
    elif name == "a rejected draft may be sampled again":
        rejection.sample_recovered_tokens = recover_anything
    elif name == "drafts are verified at another temperature":
        rejection.expand_batch_to_tokens = expand_hotter
    try:
        yield
    finally:
        rejection.generate_uniform_probs = uniform
        rejection.sample_recovered_tokens = recover
        rejection.expand_batch_to_tokens = expand


CONTROLS = (
    "drafts are accepted too often",
    "a rejected draft may be sampled again",
    "drafts are verified at another temperature",
)


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    current_platform.register_triton_kernel_overrides()
    cpu_sampler.repair(rejection)
    cpu_sampler.allow_steps_without_drafts(rejection)
    result: dict[str, Any] = {"cases": {}, "controls": {}}
    for name, drafter, case in settings["cases"]:
        torch.manual_seed(settings["seed"])
        result["cases"][f"{name}; {drafter}"] = draw(case, drafter, settings["draws"])
        record("sampler", f"{name}; {drafter}", result["cases"][f"{name}; {drafter}"])
    for name in CONTROLS if settings["controls"] else ():
        torch.manual_seed(settings["seed"])
        with wrong(name):
            result["controls"][name] = draw({}, "ragged, likeliest", settings["draws"])
        record("sampler, wrong on purpose", name, result["controls"][name])
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
