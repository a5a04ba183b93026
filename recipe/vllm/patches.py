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


def is_handed_over(runner_module: ModuleType) -> bool:
    """Tell whether `hand_over_batch` is in force in this process."""
    runner = getattr(runner_module, "GPUModelRunner", None)
    return hasattr(getattr(runner, "propose_draft_token_ids", None), _MARK)
