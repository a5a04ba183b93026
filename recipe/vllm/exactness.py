"""How many tokens may be drafted for a request so that vLLM's speculative path stays exact (`doc/exactness.md`).

vLLM's rejection sampler handles almost every sampling parameter as its plain sampler does. Where it does not, redraft
drafts less, or nothing, for the requests that ask for it; all others draft on. A row without a draft is sampled by the
plain sampler, whatever its neighbours in the batch draft.
"""

from __future__ import annotations

import itertools
import re
import sys
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from redraft.errors import FailedPrecondition

Int32Array = npt.NDArray[np.int32]

EXACT_RULES = ("standard", "block")
"""vLLM's `rejection_sample_method`s that keep the target's distribution; "block" is block verification (Sun et al.,
2024). "synthetic" accepts at a rate that is given, and "fly" (0.33) accepts what is nearly right."""

TRIMS_STOP_STRINGS = (0, 32)
"""First vLLM that cuts off the tokens which one step accepted behind a stop string (its pull request #47616).
Before, they stayed in `token_ids`, though not in the text."""


class Bound(NamedTuple):
    """What may be drafted for a request."""

    drafts: bool
    """False: nothing, ever."""
    min_tokens: int
    """Until this many response tokens are there, a draft must leave the last of them to a step without a draft:
    `within`."""


def check_rule(speculative_config: Any) -> None:
    """See that vLLM verifies by a rule that keeps the target's distribution.

    Args:
        speculative_config: vLLM's `SpeculativeConfig`; one without the field has the standard rule only.

    Raises:
        FailedPrecondition: it doesn't.
    """
    rule = getattr(speculative_config, "rejection_sample_method", "standard")
    if rule not in EXACT_RULES:
        raise FailedPrecondition(
            f'rejection_sample_method: with "{rule}" responses are not samples of the policy, whatever is drafted;'
            f' leave it out of speculative_config, or say "{EXACT_RULES[0]}"'
        )


def bound(parameters: Any) -> Bound:
    """Return what may be drafted under a request's sampling parameters.

    - `min_tokens`: vLLM masks stop tokens at each drafted position by that position's length, but at the bonus
      position by the length *before* the draft. A draft that crosses `min_tokens` so loses the stop tokens' probability
      at the bonus position. The draft is cut so that it does not cross.
    - `stop` (strings), before vLLM 0.32: see `TRIMS_STOP_STRINGS`. Nothing is drafted.
    - `thinking_token_budget`: the bonus position is sampled first and moves the state that the drafted positions then
      read (vLLM's issue #41758 and pull request #41768). Nothing is drafted.

    Args:
        parameters: vLLM's `SamplingParams`; a field that is missing asks for nothing.
    """
    stop_strings = bool(getattr(parameters, "stop", None)) and not trims_stop_strings()
    thinks = getattr(parameters, "thinking_token_budget", None) is not None
    return Bound(not (stop_strings or thinks), getattr(parameters, "min_tokens", None) or 0)


def within_bounds(
    token_ids: Int32Array, offsets: npt.NDArray[np.integer[Any]], room: Int32Array, vocab_size: int
) -> list[list[int]]:
    """Return each request's draft, cut where vLLM could not take it.

    vLLM checks nothing: a draft longer than `num_speculative_tokens` fails an assertion of its metrics, and a token id
    that the model does not have is read from beyond its embeddings.

    Args:
        token_ids: int32, shape (num_drafted,), the drafts one after another.
        offsets: int, shape (b + 1,): request i's draft is `token_ids[offsets[i]:offsets[i + 1]]`.
        room: int32, shape (b,), most tokens that may be drafted for each request.
        vocab_size: how many tokens the model has. History of a larger vocabulary may hold others.
    """
    drafted = token_ids.tolist()
    rows = [drafted[begin:end] for begin, end in itertools.pairwise(offsets.tolist())]
    if bool((np.diff(offsets) > room).any()):
        rows = [row[:most] for row, most in zip(rows, room.tolist(), strict=True)]
    if drafted and (int(token_ids.max()) >= vocab_size or int(token_ids.min()) < 0):
        rows = [list(itertools.takewhile(lambda token: 0 <= token < vocab_size, row)) for row in rows]
    return rows


def trims_stop_strings() -> bool:
    """Tell whether the vLLM of this process is one that drops tokens behind a stop string."""
    version = getattr(sys.modules.get("vllm"), "__version__", "")
    series = re.match(r"(\d+)\.(\d+)", version)
    return series is None or (int(series[1]), int(series[2])) >= TRIMS_STOP_STRINGS
