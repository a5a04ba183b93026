"""The command `redraft bench acceptance`. What it needs is imported when it runs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

OUT = click.Path(dir_okay=False, path_type=Path)
COLUMNS = {
    "tokens_per_step": "tokens/step",
    "drafted_per_step": "drafted",
    "accepted_per_step": "accepted",
    "acceptance_rate": "rate",
    "coverage": "coverage",
    "draft_us_p50": "draft us",
    "calibration_error": "calibration",
}


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--tokenizer", help="Hugging Face folder or name for text; default: SmolLM2's.")
@click.option(
    "--samples-per-epoch", type=click.IntRange(1), help="Cut a file of one epoch; else the first N."
)
@click.option("--epochs", type=click.IntRange(1), help="Replay the first K epochs.")
@click.option("--replay-prompts", type=click.IntRange(1), help="Replay the first K prompts; history of all.")
@click.option("--concurrency", type=click.IntRange(1), default=256, help="Most requests at a time.")
@click.option("--horizon", type=click.IntRange(0, 1024), default=32, help="Most draft tokens of a request.")
@click.option("--max-tokens", type=click.IntRange(1), default=12000, help="Cut longer responses.")
@click.option(
    "--drafted-per-step",
    type=click.FloatRange(0, min_open=True),
    help="Most draft tokens a request and step, on average over the last epoch: finds the threshold.",
)
@click.option("--min-survival", type=click.FloatRange(0, 1), default=0.2, help="Threshold without the above.")
@click.option(
    "--age-decay", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Weight per epoch."
)
@click.option(
    "--reward-weight", type=click.FloatRange(0), default=0.0, help="Extra weight of good responses."
)
@click.option("--baselines/--no-baselines", default=True, help="Replay the baselines too.")
@click.option("--ablations/--no-ablations", default=False, help="Replay with each ingredient switched off.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--png", type=OUT, help="Write the plots.")
@click.option("--html", "page", type=OUT, help="Write a page with plots and table.")
def acceptance(
    files: tuple[Path, ...],
    tokenizer: str | None,
    samples_per_epoch: int | None,
    epochs: int | None,
    replay_prompts: int | None,
    concurrency: int,
    horizon: int,
    max_tokens: int,
    drafted_per_step: float | None,
    min_survival: float,
    age_decay: float,
    reward_weight: float,
    baselines: bool,
    ablations: bool,
    as_json: bool,
    png: Path | None,
    page: Path | None,
) -> None:
    """Replay recorded rollouts: tokens per step, by epoch and drafter."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from redraft.benchmarks.acceptance import Options, all_drafters, run
    from redraft.benchmarks.traces import read
    from redraft.errors import RedraftError

    options = Options(
        concurrency, horizon, replay_prompts, drafted_per_step, min_survival, age_decay, reward_weight
    )
    results: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for file in files:
            task: TaskID = progress.add_task(file.name, total=None)
            try:
                trace = read(file, tokenizer, max_tokens).cut(samples_per_epoch, epochs)
                results += run(
                    trace,
                    all_drafters(baselines, ablations),
                    options,
                    progress=partial(progress.advance, task),
                )
            except RedraftError as error:
                raise click.ClickException(str(error)) from None
    if png is not None or page is not None:
        from redraft.benchmarks.acceptance_plots import draw

        draw(results, png, page)
    if as_json:
        from redraft.provenance import provenance

        click.echo(json.dumps({"results": results} | provenance()))
    else:
        _print(results)


def _print(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "drafter", "epoch", *COLUMNS.values())
    for entry in results:
        figures = [f"{entry[key]:.3f}" for key in COLUMNS]
        table.add_row(str(entry["file"]), str(entry["drafter"]), str(entry["epoch"]), *figures)
    Console(width=max(Console().width, 130)).print(table)
