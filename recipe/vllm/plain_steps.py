"""Steps in which nothing was drafted cost what plain decoding costs.

With speculation configured, vLLM 0.32 and later send every step through the rejection sampler and its metadata, also
one that verifies no draft at all: about 15 % of the CPU time of a step of a small model. Up to 0.31 such a step was a
plain one. The change was made for models with recurrent state, and only they need it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

_MARK = "_redraft_plain_steps"

_RESTING = "_redraft_speculative_config"
"""The runner's attribute that holds its configuration while its proposer rests."""

RECURRENT = ("is_hybrid", "is_attention_free", "has_inner_state")
"""vLLM's `ModelConfig` properties of models that keep state from step to step outside of the KV cache."""


def is_recurrent(model_config: Any) -> bool:
    """Tell whether the model keeps recurrent state; True for a configuration that doesn't say."""
    return any(getattr(model_config, name, True) for name in RECURRENT)


def _has_thinking_budget(runner: Any) -> bool:
    """Tell whether a request of the batch has `thinking_token_budget`."""
    holder = getattr(getattr(runner, "input_batch", None), "thinking_budget_state_holder", None)
    return holder is not None and bool(holder.has_tracked_requests())


def _drafted_nothing(runner: Any) -> bool:
    """Tell whether a runner has no draft to hand out: it was not asked for any, or all are empty."""
    if not getattr(getattr(runner, "drafter", None), "plain_steps", False):
        return False
    drafts = runner._draft_token_ids
    return drafts is None or (isinstance(drafts, list) and not any(drafts))


def decode_plainly(runner_module: ModuleType) -> None:
    """Let a step without drafts take vLLM's plain path, where the proposer allows it (`plain_steps`).

    Trigger: `GPUModelRunner._prepare_inputs` (0.32 and later) makes verification metadata whenever speculation is
    configured; with it `_sample` runs the rejection sampler over zero drafts.
    `GPUModelRunner.take_draft_token_ids` hands the scheduler a list of empty drafts.

    Why it is safe: for the time of the call the runner looks like one without speculation, so vLLM's own plain code
    prepares the inputs, and without metadata `_sample` takes the plain sampler, as in every vLLM up to 0.31. The
    sampler draws from the same distribution, with the same generators: the rejection sampler's first act is to call
    it. With a proposer that `rests` the runner looks so until its next step: vLLM doesn't ask it then, and prepares
    nothing for it; what reads the configuration between two steps is about other methods than `custom_class`. Models
    with recurrent state, whose attention reads the metadata, are left alone (`is_recurrent`), and so are batches with a
    thinking budget, whose state is made for the rejection sampler's rows once speculation is configured and takes a
    plain step's row for another. A scheduler that is told of no drafts keeps what it has, and it takes a request's
    drafts away when it schedules them.

    Upstream: the condition was `len(scheduled_spec_decode_tokens) > 0` up to 0.31; no issue is open about its cost.

    Idempotent: marked methods aren't wrapped again. A runner without these methods is left alone.
    """
    runner = getattr(runner_module, "GPUModelRunner", None)
    prepare: Callable[..., Any] | None = getattr(runner, "_prepare_inputs", None)
    take: Callable[..., Any] | None = getattr(runner, "take_draft_token_ids", None)
    if runner is None or prepare is None or take is None or hasattr(prepare, _MARK):
        return

    @functools.wraps(prepare)
    def _prepare_inputs(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        configured = self.speculative_config
        if configured is None:
            configured = getattr(self, _RESTING, None)
            if configured is None:
                return prepare(self, scheduler_output, *args, **kwargs)
        drafter: Any = getattr(self, "drafter", None)
        if (
            scheduler_output.scheduled_spec_decode_tokens
            or not getattr(drafter, "plain_steps", False)
            or _has_thinking_budget(self)
        ):
            self.speculative_config = configured
            return prepare(self, scheduler_output, *args, **kwargs)
        rests = False
        self.speculative_config = None
        try:
            prepared = prepare(self, scheduler_output, *args, **kwargs)
            rests = drafter.rests(self.input_batch, scheduler_output)
        finally:
            if rests:
                setattr(self, _RESTING, configured)
            else:
                self.speculative_config = configured
        return prepared

    @functools.wraps(take)
    def take_draft_token_ids(self: Any) -> Any:
        return None if _drafted_nothing(self) else take(self)

    for wrapped, original in ((_prepare_inputs, prepare), (take_draft_token_ids, take)):
        setattr(wrapped, _MARK, original)
        setattr(runner, original.__name__, wrapped)


def fetch_no_empty_drafts(executor_module: ModuleType) -> None:
    """Spare an engine in one process the call into its worker for drafts that aren't there.

    Trigger: `UniProcExecutor.take_draft_token_ids`, which vLLM calls after every step of an engine with speculation. It
    goes through the executor's remote calls, as if the worker were in another process.

    Why it is safe: it looks at what the worker's runner would look at, and answers None where that would
    (`decode_plainly`); wherever there may be a draft, vLLM's call is made.

    Upstream: no issue is open.

    Idempotent: a marked method isn't wrapped again. An executor without the method is left alone, and so is one whose
    worker's runner isn't found where it is expected.
    """
    executor = getattr(executor_module, "UniProcExecutor", None)
    take: Callable[..., Any] | None = getattr(executor, "take_draft_token_ids", None)
    if executor is None or take is None or hasattr(take, _MARK):
        return

    @functools.wraps(take)
    def take_draft_token_ids(self: Any) -> Any:
        try:
            runner = self.driver_worker.worker.model_runner
        except AttributeError:
            return take(self)
        return None if _drafted_nothing(runner) else take(self)

    setattr(take_draft_token_ids, _MARK, take)
    executor.take_draft_token_ids = take_draft_token_ids
