"""What the demo shows while it runs: one bar for the current part, one line for every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from redraft.recipe.demo.policy import Progress as SupervisedProgress
from redraft.recipe.demo.settings import Settings
from redraft.recipe.demo.training import MetricsLine


class Display:
    """Progress bars on a terminal; plain lines where there is none."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self._console = console
        self._settings = settings
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, figures="", visible=False)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def start(self, description: str, total: int | None) -> None:
        """Show a new bar; `total` None: nobody knows how long."""
        self._progress.reset(self._task, description=description, total=total, figures="", visible=True)
        if not self._console.is_terminal:
            self.say(description)

    def finish(self) -> None:
        """Hide the bar."""
        self._progress.update(self._task, visible=False)

    def supervised(self, progress: SupervisedProgress) -> None:
        """Show a step of supervised training."""
        self._progress.update(
            self._task, completed=progress.step, total=progress.steps, figures=f"loss {progress.loss:.3f}"
        )

    def selection(self, done: int, total: int) -> None:
        """Show how many candidates were tried."""
        self._progress.update(self._task, completed=done, total=total)

    def training(self, line: MetricsLine) -> None:
        """Show a line of the training run's metrics."""
        if line["kind"] == "start":
            self._progress.update(self._task, description="GRPO with drafting", total=line["total_steps"])
        elif line["kind"] == "step":
            self._progress.update(
                self._task,
                completed=line["step"],
                description=f"GRPO with drafting, epoch {line['epoch']}",
                figures=figures(line),
            )
            if not self._console.is_terminal:
                self.say(f"step {line['step']}, epoch {line['epoch']}: {figures(line)}")
        elif line["kind"] == "epoch":
            self.say(f"epoch {line['epoch']}: {figures(line)}")

    def note_epochs(self, metrics: Sequence[MetricsLine]) -> None:
        """Say how far training got."""
        epochs = sum(line["kind"] == "epoch" for line in metrics)
        self.say(f"training finished {epochs} of {self._settings.epochs} epochs")

    def comparison(self, what: str) -> None:
        """Show what is being measured."""
        self._progress.update(self._task, description=f"drafting against plain decoding, {what}")
        if not self._console.is_terminal:
            self.say(f"drafting against plain decoding, {what}")


def figures(line: MetricsLine) -> str:
    """Return the figures of a step or an epoch in one line."""
    wanted = (
        ("reward", "reward", "{:.2f}"),
        ("tokens_per_second", "tokens/s", "{:,.0f}"),
        ("mean_acceptance_length", "mean acceptance length", "{:.2f}"),
        ("acceptance_rate", "accepted", "{:.0%}"),
    )
    return ", ".join(
        f"{name} {text.format(line[key])}" for key, name, text in wanted if line.get(key) is not None
    )
