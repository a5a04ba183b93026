"""vLLM's CPU rejection sampler is wrong at temperature > 0 where it is broken, and right once repaired."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def outcome(run_engine):
    return run_engine(Path(__file__).parent / "engines" / "cpu_sampler.py", {})


def test_stock_sampling_is_wrong_exactly_where_the_probe_says_so(outcome):
    smallest = min(p for p_values in outcome["stock"].values() for p in p_values)
    assert (smallest < 1e-12) == outcome["broken"]


def test_the_repair_happens_only_where_it_is_needed_and_only_once(outcome):
    assert outcome["repairs"] == [outcome["broken"], False]


def test_repaired_sampling_has_the_targets_distribution(outcome):
    assert len(outcome["repaired"]) == 5
    for setting, p_values in outcome["repaired"].items():
        assert len(p_values) == 3
        assert min(p_values) > 0.001, setting


def test_the_replacement_expands_as_the_original_promises():
    import torch

    from redraft.recipe.vllm.cpu_sampler import expand_batch_to_tokens, is_broken, repair

    values = torch.tensor([0.5, 0.0, 2.0])
    cumulative = torch.tensor([2, 2, 5], dtype=torch.int32)
    assert expand_batch_to_tokens(values, cumulative, 5).tolist() == [0.5, 0.5, 2.0, 2.0, 2.0]
    zero_is_one = expand_batch_to_tokens(torch.tensor([0, 7]), torch.tensor([1, 3]), 3, 0, 1)
    assert zero_is_one.tolist() == [1, 7, 7]
    good = SimpleNamespace(expand_batch_to_tokens=expand_batch_to_tokens)
    bad = SimpleNamespace(expand_batch_to_tokens=lambda x, cu_num_tokens, n: x.new_zeros(n))
    assert (is_broken(good), is_broken(bad)) == (False, True)
    assert (repair(good), repair(bad), repair(bad)) == (False, True, False)
    assert bad.expand_batch_to_tokens is expand_batch_to_tokens


def test_a_step_without_drafts_works_under_top_k_alone(outcome):
    assert outcome["without_drafts"]["repairs"] == [outcome["without_drafts"]["fails"], False]
    assert outcome["without_drafts"]["shape"] == [0, 12]
