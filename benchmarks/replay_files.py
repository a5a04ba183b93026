"""Reads files and shows how far their replay is: what the commands of the replay share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from redraft.benchmarks.acceptance import Options, Progress, run
from redraft.benchmarks.traces import Trace, read


def each_file(
    files: Sequence[Path],
    tokenizer: str | None,
    max_tokens: int,
    samples_per_epoch: int | None,
    epochs: int | None,
) -> Iterator[tuple[Trace, Progress]]:
    """Yield each file's trace and what shows how far it is, under a progress bar on standard error.

    Raises:
        InvalidArgument: a file is not of the form that `read` wants.
        NotFound: there is no such tokenizer.
    """
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        for file in files:
            task = bar.add_task(f"{file.name}: reading", total=None)

            def read_so_far(tokens: int, task: Any = task) -> None:
                bar.advance(task, tokens)

            trace = read(file, tokenizer, max_tokens, samples_per_epoch, epochs, read_so_far)
            bar.reset(task, total=1.0)

            def replayed(drafter: str, done: float, task: Any = task, name: str = file.name) -> None:
                bar.update(task, completed=done, description=f"{name}: {drafter}")

            yield trace, replayed
            bar.update(task, completed=1.0, description=file.name)


def replay_files(
    files: Sequence[Path],
    tokenizer: str | None,
    max_tokens: int,
    samples_per_epoch: int | None,
    epochs: int | None,
    drafters: Sequence[str],
    options: Options,
) -> list[dict[str, Any]]:
    """Replay each file with each drafter.

    Returns:
        The entries of `run`, file by file.

    Raises:
        InvalidArgument: a file or a drafter's name is wrong.
        NotFound: there is no such tokenizer.
    """
    results: list[dict[str, Any]] = []
    for trace, progress in each_file(files, tokenizer, max_tokens, samples_per_epoch, epochs):
        results += run(trace, drafters, options, progress=progress)
    return results
