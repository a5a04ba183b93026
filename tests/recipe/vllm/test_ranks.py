"""On several ranks one drafts, the others hold nothing, and the text is the model's own."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from redraft.errors import FailedPrecondition
from redraft.recipe.vllm.start_up import is_drafting_rank

SCRIPT = Path(__file__).parent / "engines" / "ranks.py"


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


@pytest.fixture(
    scope="module",
    params=[{"tensor_parallel_size": 2}],
    ids=["tensor"],
)
def outcome(request, run_engine, tiny_model):
    draw = random.Random(11)
    settings = {
        "model": str(tiny_model),
        "prompts": [[draw.randrange(2, 1024) for _ in range(5 + i)] for i in range(4)] * 2,
        "parallel": request.param,
        "new_tokens": 48,
    }
    return run_engine(SCRIPT, settings)


@pytest.mark.vllm
def test_one_of_two_ranks_drafts_and_the_other_holds_nothing(outcome):
    ranks = {rank["rank"]: rank for rank in outcome["ranks"]}
    assert sorted(ranks) == [0, 1]
    drafting = [rank for rank in ranks.values() if rank["drafts"]]
    assert len(drafting) == 1
    assert "_drafter" in drafting[0]["attributes"]
    assert drafting[0]["threads"]
    assert drafting[0]["accepted"] > 100
    (idle,) = [rank for rank in ranks.values() if not rank["drafts"]]
    assert idle["threads"] == []
    assert set(idle["attributes"]) <= {"_options", "_most", "_logger", "_drafts", "plain_steps"}


@pytest.mark.vllm
def test_ranks_stay_in_step_and_write_the_models_text(outcome):
    assert outcome["greedy"] == [outcome["expected"]] * 2
