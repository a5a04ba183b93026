"""The command `redraft bench acceptance`. What it needs is imported when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from redraft.benchmarks.replay_options import batch_options, trace_options

OUT = click.Path(dir_okay=False, path_type=Path)
COLUMNS = {
    "tokens_per_step": "tokens/step",
    "drafted_per_step": "drafted",
    "accepted_per_step": "accepted",
    "acceptance_rate": "rate",
    "coverage": "coverage",
    "steps_without_draft": "no draft",
    "draft_us_p50": "draft us",
    "calibration_error": "calibration",
}
SLICE_COLUMNS = {"steps": "steps", **dict(list(COLUMNS.items())[:6]), "draft_us": "draft us"}


@click.command()
@trace_options
@batch_options
@click.option("--horizon", type=click.IntRange(0, 1024), default=32, help="Most draft tokens of a request.")
@click.option(
    "--drafted-per-step",
    type=click.FloatRange(0, min_open=True),
    help="Most draft tokens a request and step, on average over the last epoch: finds the threshold.",
)
@click.option("--min-survival", type=click.FloatRange(0, 1), default=0.2, help="Threshold without the above.")
@click.option("--policy", type=click.Choice(["blend", "longest"]), default="blend", help="What redraft does.")
@click.option(
    "--age-decay", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Weight per epoch."
)
@click.option(
    "--reward-weight", type=click.FloatRange(0), default=0.0, help="Extra weight of good responses."
)
@click.option("--drafter", "chosen", multiple=True, help="Replay these only: redraft, own, siblings, ...")
@click.option("--baselines/--no-baselines", default=True, help="Replay the baselines too.")
@click.option("--ablations/--no-ablations", default=False, help="Replay with each ingredient switched off.")
@click.option(
    "--by",
    "views",
    multiple=True,
    type=click.Choice(["position", "source", "turn"]),
    help="Print these tables of the last epoch too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--png", type=OUT, help="Write the plots.")
@click.option("--html", "page", type=OUT, help="Write a page with plots and tables.")
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
    policy: str,
    age_decay: float,
    reward_weight: float,
    chosen: tuple[str, ...],
    baselines: bool,
    ablations: bool,
    views: tuple[str, ...],
    as_json: bool,
    png: Path | None,
    page: Path | None,
) -> None:
    """Replay recorded rollouts: tokens per step, by epoch and drafter."""
    from redraft.benchmarks.acceptance import DRAFTERS, Options
    from redraft.benchmarks.baselines import ABLATIONS
    from redraft.benchmarks.replay_files import replay_files
    from redraft.errors import RedraftError

    options = Options(
        concurrency,
        horizon,
        replay_prompts,
        drafted_per_step,
        min_survival,
        policy,
        age_decay,
        reward_weight,
    )
    names = chosen or (*(DRAFTERS if baselines else DRAFTERS[:1]), *(ABLATIONS if ablations else ()))
    try:
        results = replay_files(files, tokenizer, max_tokens, samples_per_epoch, epochs, names, options)
    except RedraftError as error:
        raise click.ClickException(str(error)) from None
    if png is not None or page is not None:
        from redraft.benchmarks.acceptance_plots import draw

        draw(results, png, page)
    if as_json:
        from redraft.provenance import provenance

        click.echo(json.dumps({"results": results} | provenance()))
        return
    _print(results)
    for view in views:
        _print_slices(results, view)
    tokens, seconds = (sum(entry[key] for entry in results) for key in ("tokens", "cpu_seconds"))
    click.echo(f"{tokens:,} tokens replayed, {tokens / max(1e-9, seconds):,.0f} in a processor second")


def _print(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "drafter", "epoch", *COLUMNS.values())
    for entry in results:
        figures = [f"{entry[key]:.3f}" for key in COLUMNS]
        table.add_row(str(entry["file"]), str(entry["drafter"]), str(entry["epoch"]), *figures)
    Console(width=max(Console().width, 140)).print(table)


def _print_slices(results: list[dict[str, Any]], view: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from redraft.benchmarks.acceptance_plots import last_entries, slices_of

    columns = SLICE_COLUMNS | ({"history_coverage": "from history"} if view == "turn" else {})
    table = Table("file", "drafter", view, *columns.values())
    for entry in last_entries(results):
        for name, counts in slices_of(entry, view):
            figures = [f"{counts[key]:.3f}" if key != "steps" else f"{counts[key]:,}" for key in columns]
            table.add_row(str(entry["file"]), str(entry["drafter"]), name, *figures)
    Console(width=max(Console().width, 140)).print(table)
