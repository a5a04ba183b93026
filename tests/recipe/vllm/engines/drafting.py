"""The engine that most scripts of this folder run: greedy-stable float32, in this very process, with the proposer."""

from __future__ import annotations

from typing import Any


def arguments(draft_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return vLLM's arguments for an engine that drafts; `options` are redraft's."""
    return {
        "dtype": "float32",
        "enforce_eager": True,
        "seed": 7,
        "speculative_config": {
            "method": "custom_class",
            "model": "redraft.recipe.vllm.proposer.RedraftProposer",
            "num_speculative_tokens": draft_tokens,
        },
        "additional_config": {"redraft": options},
    }


def make(model: str, draft_tokens: int = 6, *, redraft: dict[str, Any] | None = None, **more: Any) -> Any:
    """Return an `LLM`; `more` are vLLM's arguments. Drafts whatever it knows unless `redraft` says otherwise."""
    from vllm import LLM

    return LLM(model, **{**arguments(draft_tokens, redraft or {"min_survival": 0.0}), **more})


def start(engine: Any, name: str, prompt: list[int], max_tokens: int) -> None:
    """Give an `LLMEngine` a greedy request."""
    from vllm import SamplingParams

    parameters = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
    engine.add_request(name, {"prompt_token_ids": prompt}, parameters)


def run(engine: Any, responses: dict[str, list[int]], steps: int | None = None) -> None:
    """Make so many steps, or all; `responses`: request -> what it has written, kept up to date."""
    while engine.has_unfinished_requests() and steps != 0:
        for output in engine.step():
            responses[output.request_id] = list(output.outputs[0].token_ids)
        steps = None if steps is None else steps - 1
