"""The prompts of the demo in verl's format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from redraft.recipe.demo.tasks import TRAIN_SEED, Entry, Task


def rows(tasks: Sequence[Task], count: int, instruction: str = "") -> list[dict[str, Any]]:
    """Return `count` rows with different questions, the tasks in turn; always the same ones.

    `instruction` is added to every question. Each row has the columns that verl's data set reads: `data_source` (the
    task's name), `prompt` (chat messages), `reward_model` (the reference answer) and `extra_info` (row number, and the
    problem as JSON for the scorer).
    """
    streams = cycle([(task, _different(task.problems(TRAIN_SEED))) for task in tasks])
    return [
        _row(task, next(problems), i, instruction)
        for i, (task, problems) in enumerate(islice(streams, count))
    ]


def _different(problems: Iterable[Entry]) -> Iterator[Entry]:
    seen = set()
    for entry in problems:
        if entry["question"] not in seen:
            seen.add(entry["question"])
            yield entry


def _row(task: Task, entry: Entry, index: int, instruction: str) -> dict[str, Any]:
    return {
        "data_source": task.name,
        "prompt": [{"role": "user", "content": entry["question"] + instruction}],
        "ability": "reasoning",
        "reward_model": {"style": "rule", "ground_truth": entry["answer"]},
        "extra_info": {"index": index, "entry": json.dumps(entry)},
    }


def write(
    tasks: Sequence[Task], folder: Path, *, train: int, test: int, instruction: str = ""
) -> tuple[Path, Path]:
    """Write train.parquet and test.parquet with that many prompts, all different; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = rows(tasks, train + test, instruction)
    paths = folder / "train.parquet", folder / "test.parquet"
    for path, part in zip(paths, (everything[:train], everything[train:]), strict=True):
        pq.write_table(pa.Table.from_pylist(part), path)
    return paths


def encode_prompt(tokens: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Return the token ids of chat messages with the generation prompt, as verl computes them."""
    text = tokens.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return list(tokens(text, add_special_tokens=False).input_ids)
