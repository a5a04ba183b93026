"""Of several ranks one drafts: the one whose drafts vLLM uses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from redraft.errors import FailedPrecondition
from redraft.recipe.vllm.start_up import is_drafting_rank


def config(rank: int, tensor: int = 1, pipeline: int = 1, backend: str = "mp") -> SimpleNamespace:
    """What vLLM's `ParallelConfig` says on a rank; data parallelism gives each engine such a world of its own."""
    return SimpleNamespace(
        rank=rank,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        world_size=tensor * pipeline,
        distributed_executor_backend=backend,
    )


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 3)])
def test_one_rank_of_the_last_stage_drafts(tensor, pipeline):
    ranks = range(tensor * pipeline)
    last_stage = list(ranks)[-tensor:]
    drafting = [rank for rank in last_stage if is_drafting_rank(config(rank, tensor, pipeline))]
    # vLLM's `MultiprocExecutor._get_output_rank`, whose drafts go into the next step's schedule.
    assert drafting == [tensor * pipeline - tensor]


def test_ranks_that_schedule_for_themselves_are_refused():
    with pytest.raises(FailedPrecondition, match=r"^distributed_executor_backend: "):
        is_drafting_rank(config(0, tensor=2, backend="external_launcher"))
    assert is_drafting_rank(config(0, backend="external_launcher"))
