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
