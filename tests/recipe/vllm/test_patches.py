"""What the patches to vLLM's runner change, and what they leave alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from redraft.recipe.vllm.patches import ask_up_to_the_longest_text


class Runner:
    """The method of vLLM's runner that is wrapped."""

    def _input_fits_in_drafter(self, common_attn_metadata: Any) -> bool:
        return common_attn_metadata is not None and common_attn_metadata.max_seq_len + 8 <= 256


@pytest.fixture
def runner():
    """A runner of a fresh class, patched."""
    module = SimpleNamespace(GPUModelRunner=type("GPUModelRunner", (Runner,), dict(Runner.__dict__)))
    ask_up_to_the_longest_text(module)
    patched = module.GPUModelRunner._input_fits_in_drafter
    ask_up_to_the_longest_text(module)
    assert module.GPUModelRunner._input_fits_in_drafter is patched
    return module.GPUModelRunner()


def test_a_proposer_that_bounds_its_drafts_is_asked_up_to_the_models_length(runner):
    runner.drafter = SimpleNamespace(bounds_drafts=True)
    assert runner._input_fits_in_drafter(SimpleNamespace(max_seq_len=256))
    assert not runner._input_fits_in_drafter(None)  # nothing was computed that could be drafted for


@pytest.mark.parametrize("drafter", [SimpleNamespace(), SimpleNamespace(bounds_drafts=False)])
def test_other_proposers_keep_vllms_answer(runner, drafter):
    runner.drafter = drafter
    assert runner._input_fits_in_drafter(SimpleNamespace(max_seq_len=248))
    assert not runner._input_fits_in_drafter(SimpleNamespace(max_seq_len=249))
    del runner.drafter  # a rank without proposer
    assert not runner._input_fits_in_drafter(SimpleNamespace(max_seq_len=249))


def test_a_runner_without_the_method_is_left_alone():
    module = SimpleNamespace(GPUModelRunner=type("GPUModelRunner", (), {}))
    ask_up_to_the_longest_text(module)
    ask_up_to_the_longest_text(SimpleNamespace())
    assert not hasattr(module.GPUModelRunner, "_input_fits_in_drafter")
