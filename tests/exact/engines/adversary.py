"""A proposer that drafts badly on purpose, in every way that vLLM's interface allows."""

from __future__ import annotations

import random
from typing import Any

from redraft.recipe.vllm.proposer import RedraftProposer

drafter = "redraft"
"""What every instance drafts: "redraft": what redraft drafts; "likeliest", "unlikeliest": as many tokens as allowed,
by `following`; "one": the likeliest token; "nothing"; "at random": 0 to as many tokens as allowed."""
following: dict[tuple[int, ...], tuple[int, int]] = {}
"""The likeliest and the unlikeliest token after a response; one that is not there ends the draft."""
vocab_size = 0
drafted: list[int] = []
"""Length of every draft given to vLLM."""


class Adversary(RedraftProposer):
    """Redraft's proposer, whose drafts are replaced after they were made, so that its state is a real one's."""

    _random = random.Random(6)

    def propose(self, sampled_token_ids: list[list[int]], *args: Any, **kwargs: Any) -> list[list[int]]:
        rows = super().propose(sampled_token_ids, *args, **kwargs)
        if drafter != "redraft":
            rows = [self._row(i) if sampled else [] for i, sampled in enumerate(sampled_token_ids)]
        drafted.extend(map(len, rows))
        return rows

    def _row(self, i: int) -> list[int]:
        if drafter == "nothing":
            return []
        if drafter == "at random":
            count = self._random.randint(0, self._most)
            return [self._random.randrange(vocab_size) for _ in range(count)]
        batch = self._batch
        prompt, known = int(batch.num_prompt_tokens[i]), int(batch.num_tokens_no_spec[i])
        response = tuple(batch.token_ids_cpu[i, prompt:known].tolist())
        row: list[int] = []
        while len(row) < (1 if drafter == "one" else self._most) and response in following:
            row.append(following[response][drafter == "unlikeliest"])
            response = (*response, row[-1])
        return row
