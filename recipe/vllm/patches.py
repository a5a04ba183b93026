"""The patches to vLLM's runner. Each is one function that says its trigger, why it is safe, and the upstream
issue.

`redraft.recipe.compatibility.vllm_contracts` holds fingerprints of what is patched: a vLLM that changed it fails
`make verify-compat` and tests/recipe/vllm/test_versions.py first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

RUNNER_MODULE = "vllm.v1.worker.gpu_model_runner"
_MARK = "_redraft_wraps"


def hand_over_batch(runner_module: ModuleType) -> None:
    """Give a proposer that wants it the runner's batch, just before vLLM asks it for drafts.

    Trigger: `GPUModelRunner.propose_draft_token_ids`, which the CPU runner inherits. For `custom_class` vLLM
    passes sampled ids and token buffers but no request ids and no prompt lengths, so a proposer cannot tell
    one request from another.

    Why it is safe: the wrapper reads, calls vLLM's method with the very arguments it got, and returns what
    that returned. A proposer without a `before_propose` method (every one of vLLM's own) never notices.

    Upstream: `custom_class` arrived without request ids; no issue is open, vLLM calls the interface
    experimental.

    Idempotent: a wrapped method carries a mark and isn't wrapped again. A runner without the method is left
    alone; `RedraftProposer` then refuses to start.
    """
    runner = getattr(runner_module, "GPUModelRunner", None)
    original: Callable[..., Any] | None = getattr(runner, "propose_draft_token_ids", None)
    if runner is None or original is None or hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def propose_draft_token_ids(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        before_propose = getattr(self.drafter, "before_propose", None)
        if before_propose is not None:
            before_propose(self.input_batch, self.requests, scheduler_output)
        return original(self, scheduler_output, *args, **kwargs)

    setattr(propose_draft_token_ids, _MARK, original)
    runner.propose_draft_token_ids = propose_draft_token_ids


def ask_up_to_the_longest_text(runner_module: ModuleType) -> None:
    """Ask a proposer that bounds its drafts by itself (`bounds_drafts`) also near `max_model_len`.

    Trigger: `GPUModelRunner._input_fits_in_drafter`, where some row of the batch has less than a full draft's room
    left. vLLM then asks for no draft at all, and verifies `num_speculative_tokens` zeros for every row of the batch.

    Why it is safe: the check is made for draft models, whose own forward pass would run beyond the longest text that
    they know. A proposer with `bounds_drafts` has none, and drafts no token beyond `max_model_len` for any row; the
    scheduler cuts what a row has no room for besides. Steps without attention metadata, and every other proposer, keep
    vLLM's answer.

    Upstream: no issue is open. The check came for draft models and is made for all methods; the zeros came with a
    repair for models with recurrent state, whose stale drafts they replace. A proposer that is asked replaces them too.

    Idempotent: a marked method isn't wrapped again. A runner without the method is left alone.
    """
    runner = getattr(runner_module, "GPUModelRunner", None)
    original: Callable[..., bool] | None = getattr(runner, "_input_fits_in_drafter", None)
    if runner is None or original is None or hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def _input_fits_in_drafter(self: Any, common_attn_metadata: Any, *args: Any, **kwargs: Any) -> bool:
        if common_attn_metadata is not None and getattr(
            getattr(self, "drafter", None), "bounds_drafts", False
        ):
            return True
        return original(self, common_attn_metadata, *args, **kwargs)

    setattr(_input_fits_in_drafter, _MARK, original)
    runner._input_fits_in_drafter = _input_fits_in_drafter


def is_handed_over(runner_module: ModuleType) -> bool:
    """Tell whether `hand_over_batch` is in force in this process."""
    runner = getattr(runner_module, "GPUModelRunner", None)
    return hasattr(getattr(runner, "propose_draft_token_ids", None), _MARK)
