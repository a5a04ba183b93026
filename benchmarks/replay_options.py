"""Command-line options that the benchmarks over recorded rollouts share: which files, and what of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

_TRACE = (
    click.argument(
        "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
    ),
    click.option("--tokenizer", help="Hugging Face folder or name for text; default: SmolLM2's."),
    click.option(
        "--samples-per-epoch", type=click.IntRange(1), help="Cut a file of one epoch; else the first N."
    ),
    click.option("--epochs", type=click.IntRange(1), help="Replay the first K epochs."),
    click.option("--max-tokens", type=click.IntRange(1), default=12000, help="Cut longer responses."),
)
_BATCH = (
    click.option(
        "--replay-prompts", type=click.IntRange(1), help="Replay the first K prompts; history of all."
    ),
    click.option("--concurrency", type=click.IntRange(1), default=256, help="Most requests at a time."),
)


def trace_options(command: Command) -> Command:
    """Add `files`, `tokenizer`, `samples_per_epoch`, `epochs` and `max_tokens` (tokens a response)."""
    return _add(command, _TRACE)


def batch_options(command: Command) -> Command:
    """Add `replay_prompts` and `concurrency` (requests)."""
    return _add(command, _BATCH)


def _add(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    return reduce(lambda decorated, option: option(decorated), reversed(options), command)
