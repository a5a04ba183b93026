"""CPU builds of vLLM before 0.31 put the rejection sampler's kernels in place only after the proposer is constructed.

Until then a kernel is a plain function, and `kernel[grid](...)` a TypeError: the probe for the broken expansion raised
it, and no engine with redraft started. Those kernels are as broken as later ones, so the expansion is replaced.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.mark.vllm
def test_a_kernel_that_is_not_in_place_yet_counts_as_broken():
    import torch

    from redraft.recipe.vllm import cpu_sampler

    def kernel(*_):
        return None

    def expand_batch_to_tokens(x, cu_num_tokens, num_tokens):
        kernel[(len(x),)](x)  # what vLLM's does
        return x

    sampler = SimpleNamespace(expand_batch_to_tokens=expand_batch_to_tokens)
    assert cpu_sampler.repair(sampler)
    cumulative = torch.tensor([2, 2, 3], dtype=torch.int32)
    assert sampler.expand_batch_to_tokens(torch.tensor([5, 6, 7]), cumulative, 3).tolist() == [5, 5, 7]
