"""The prompts that `redraft bench outage` rolls out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from redraft.errors import InvalidArgument

Prompts = Literal["auto", "tasks", "random"]
CHOICES: tuple[str, ...] = get_args(Prompts)


def draw(model: Path, wanted: Prompts, count: int, random_length: int) -> tuple[Prompts, list[list[int]]]:
    """Return where the prompts come from, and `count` different ones as token ids; always the same.

    Args:
        model: Hugging Face folder.
        wanted: "tasks": questions of the demo's tasks as chat messages, which a policy that was trained on them
            answers in much the same words every time; "random": random tokens, to which it writes anything; "auto":
            tasks if the folder's tokenizer has a chat template.
        count: > 0.
        random_length: tokens of a random prompt.

    Raises:
        InvalidArgument: the folder holds no model, or tasks are wanted and it holds no tokenizer with a chat template.
    """
    try:
        vocabulary = int(json.loads((model / "config.json").read_text())["vocab_size"])
    except (OSError, KeyError, ValueError):
        raise InvalidArgument(f"model: {model} holds no config.json with a vocab_size") from None
    tokens = None if wanted == "random" else _tokenizer(model)
    if tokens is None:
        if wanted == "tasks":
            raise InvalidArgument(
                f"model: {model} holds no tokenizer with a chat template to ask questions with"
            )
        return "random", np.random.default_rng(0).integers(3, vocabulary, (count, random_length)).tolist()
    from redraft.recipe.demo.data import encode_prompt, problems
    from redraft.recipe.demo.tasks import TASKS

    chosen = problems(list(TASKS.values()), count)
    return "tasks", [encode_prompt(tokens, [{"role": "user", "content": e["question"]}]) for _, e in chosen]


def _tokenizer(model: Path) -> object | None:
    """Return the folder's tokenizer, if it has one with a chat template."""
    if not (model / "tokenizer_config.json").exists():
        return None
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model)
    return tokens if tokens.chat_template else None
