"""A proposer that drafts badly on purpose, in every way that vLLM's interface allows."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np

from redraft.recipe.vllm.proposer import RedraftProposer

drafter = "redraft"
"""What every instance drafts: "redraft": what redraft drafts; "likeliest", "unlikeliest": as many tokens as allowed,
by `following`, or by `after`; "one": the likeliest token; "nothing"; "at random": 0 to as many tokens as allowed;
"forbidden": token 1, as often as allowed; "known": what `texts` says that comes, and "avoided" another token.

"longer than allowed" and "beyond the vocabulary": redraft's proposer is handed such drafts by its own core."""
following: dict[tuple[int, ...], tuple[int, int]] = {}
"""The likeliest and the unlikeliest token after a response; one that is not there ends the draft."""
after: dict[int, tuple[int, int]] = {}
"""Likewise after a token, where there is no `following`."""
texts: dict[int, list[int]] = {}
"""By a request's seed, what it will write."""
vocab_size = 0
drafted: list[int] = []
"""Length of every draft given to vLLM."""

CORE = ("longer than allowed", "beyond the vocabulary")


def make_engine(model: str, longest: int, **more: Any) -> Any:
    """Return an `LLM` that drafts as `drafter` says, at most `longest` tokens; `more` are vLLM's arguments."""
    from vllm import LLM

    return LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        max_num_batched_tokens=8192,
        seed=3,
        disable_log_stats=False,
        speculative_config={
            "method": "custom_class",
            "model": "adversary.Adversary",
            "num_speculative_tokens": longest,
        },
        additional_config={"redraft": {"min_survival": 0.0, "budget": -1}},
        **more,
    )


class Adversary(RedraftProposer):
    """Redraft's proposer, whose drafts are replaced after they were made, so that its state is a real one's."""

    _random = random.Random(6)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drafter: Any = _BadCore(self._drafter, self._random)
        self._requests._drafter = self._drafter

    def propose(self, sampled_token_ids: list[list[int]], *args: Any, **kwargs: Any) -> list[list[int]]:
        rows = super().propose(sampled_token_ids, *args, **kwargs)
        if drafter != "redraft" and drafter not in CORE:
            rows = [self._row(i) if sampled else [] for i, sampled in enumerate(sampled_token_ids)]
        drafted.extend(map(len, rows))
        return rows

    def _row(self, i: int) -> list[int]:
        if drafter == "nothing":
            return []
        if drafter == "forbidden":
            return [1] * self._most
        if drafter == "at random":
            count = self._random.randint(0, self._most)
            return [self._random.randrange(vocab_size) for _ in range(count)]
        batch = self._batch
        prompt, known = int(batch.num_prompt_tokens[i]), int(batch.num_tokens_no_spec[i])
        if drafter in ("known", "avoided"):
            text = texts[self._states[batch.req_ids[i]].sampling_params.seed]
            row = text[known - prompt : known - prompt + self._most]
            return row if drafter == "known" else [(token + 1) % vocab_size for token in row]
        response = tuple(batch.token_ids_cpu[i, prompt:known].tolist())
        row: list[int] = []
        while len(row) < (1 if drafter == "one" else self._most):
            pair = following.get(response) if following else after[response[-1]]
            if pair is None:
                break
            row.append(pair[drafter == "unlikeliest"])
            response = (*response, row[-1])
        return row


class _BadCore:
    """redraft's core, which breaks its word on what it drafts."""

    def __init__(self, core: Any, chance: random.Random) -> None:
        self._core, self._random = core, chance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def step(self, handles: Any, token_ids: Any, offsets: Any, horizons: Any, **others: Any) -> Any:
        drafts = self._core.step(handles, token_ids, offsets, horizons, **others)
        if drafter not in CORE:
            return drafts
        rows = [
            drafts.token_ids[begin:end].tolist()
            for begin, end in zip(drafts.offsets, drafts.offsets[1:], strict=False)
        ]
        if drafter == "longer than allowed":
            rows = [row + [self._random.randrange(vocab_size) for _ in range(9)] for row in rows]
        else:
            strange = (vocab_size, -1, 2**31 - 1)
            rows = [
                [self._random.choice(strange) if self._random.random() < 0.2 else token for token in row]
                for row in rows
            ]
        return SimpleNamespace(
            token_ids=np.array([token for row in rows for token in row], np.int32),
            offsets=np.cumsum([0, *map(len, rows)]),
        )
