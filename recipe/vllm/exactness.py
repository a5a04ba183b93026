"""How many tokens may be drafted for a request so that vLLM's speculative path stays exact (`doc/exactness.md`).

vLLM's rejection sampler handles almost every sampling parameter as its plain sampler does. Where it does not, redraft
drafts less, or nothing, for the requests that ask for it; all others draft on. A row without a draft is sampled by the
plain sampler, whatever its neighbours in the batch draft.
"""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

from redraft.errors import FailedPrecondition

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


def trims_stop_strings() -> bool:
    """Tell whether the vLLM of this process is one that drops tokens behind a stop string."""
    version = getattr(sys.modules.get("vllm"), "__version__", "")
    series = re.match(r"(\d+)\.(\d+)", version)
    return series is None or (int(series[1]), int(series[2])) >= TRIMS_STOP_STRINGS
