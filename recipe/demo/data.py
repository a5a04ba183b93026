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

Problem = tuple[Task, Entry]
"""A problem and the task that it belongs to."""


def problems(tasks: Sequence[Task], count: int) -> list[Problem]:
    """Return `count` problems with different questions, the tasks in turn; always the same ones."""
    streams = cycle([(task, _different(task.problems(TRAIN_SEED))) for task in tasks])
    return [(task, next(entries)) for task, entries in islice(streams, count)]


def row(problem: Problem, index: int, instruction: str = "") -> dict[str, Any]:
    """Return the problem as a row of verl's data set.

    Its columns: `data_source` (the task's name), `prompt` (chat messages; `instruction` is added to the question),
    `reward_model` (the reference answer) and `extra_info` (`index`, and the problem as JSON for the scorer).
    """
    task, entry = problem
    return {
        "data_source": task.name,
        "prompt": [{"role": "user", "content": entry["question"] + instruction}],
        "ability": "reasoning",
        "reward_model": {"style": "rule", "ground_truth": entry["answer"]},
        "extra_info": {"index": index, "entry": json.dumps(entry)},
    }


def _different(problems: Iterable[Entry]) -> Iterator[Entry]:
    seen = set()
    for entry in problems:
        if entry["question"] not in seen:
            seen.add(entry["question"])
            yield entry


def write(path: Path, chosen: Sequence[Problem], instruction: str = "") -> list[dict[str, Any]]:
    """Write the problems to a Parquet file for verl and return its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row(problem, index, instruction) for index, problem in enumerate(chosen)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return rows


def encode_prompt(tokens: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Return the token ids of chat messages with the generation prompt, as verl computes them."""
    text = tokens.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return list(tokens(text, add_special_tokens=False).input_ids)
