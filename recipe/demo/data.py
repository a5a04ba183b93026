"""The prompts of the demo in verl's format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from redraft.recipe.demo.tasks import TEST_SEED, TRAIN_SEED, Entry, Task


def rows(tasks: Sequence[Task], count: int, seed: int) -> list[dict[str, Any]]:
    """Return `count` rows, the tasks in turn; equal seeds yield equal rows.

    Each row has the columns that verl's data set reads: `data_source` (the task's name), `prompt` (chat messages),
    `reward_model` (the reference answer) and `extra_info` (row number, and the problem as JSON for the scorer).
    """
    streams = [(task, task.problems(seed)) for task in tasks]
    turns = (pair for _ in range(count) for pair in streams)
    return [_row(task, next(problems), i) for i, (task, problems) in enumerate(islice(turns, count))]


def _row(task: Task, entry: Entry, index: int) -> dict[str, Any]:
    return {
        "data_source": task.name,
        "prompt": [{"role": "user", "content": entry["question"]}],
        "ability": "reasoning",
        "reward_model": {"style": "rule", "ground_truth": entry["answer"]},
        "extra_info": {"index": index, "entry": json.dumps(entry)},
    }


def write(tasks: Iterable[Task], folder: Path, *, train: int, test: int) -> tuple[Path, Path]:
    """Write train.parquet and test.parquet with that many prompts into `folder`; return their paths."""
    tasks = list(tasks)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.parquet", folder / "test.parquet"
    for path, count, seed in zip(paths, (train, test), (TRAIN_SEED, TEST_SEED), strict=True):
        pq.write_table(pa.Table.from_pylist(rows(tasks, count, seed)), path)
    return paths
