"""The command `redraft bench ablate`. What it needs is imported when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from redraft.benchmarks.replay_options import batch_options, trace_options

COLUMNS = {
    "tokens_per_step": "tokens/step",
    "drafted_per_step": "drafted",
    "acceptance_rate": "rate",
    "coverage": "coverage",
    "calibration_error": "calibration",
}


@click.command()
@trace_options
@batch_options
@click.option(
    "--drafted-per-step",
    type=click.FloatRange(0, min_open=True),
    help="Most draft tokens a request and step; default: what everything drafts at --min-survival.",
)
@click.option("--min-survival", type=click.FloatRange(0, 1), default=0.2, help="Threshold of everything.")
@click.option("--ablation", "names", multiple=True, help="These only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ablate(
    files: tuple[Path, ...],
    tokenizer: str | None,
    samples_per_epoch: int | None,
    epochs: int | None,
    replay_prompts: int | None,
    concurrency: int,
    max_tokens: int,
    drafted_per_step: float | None,
    min_survival: float,
    names: tuple[str, ...],
    as_json: bool,
) -> None:
    """Switch each ingredient off in turn, at equal spending: what is lost."""
    from redraft.benchmarks import ablate as ablation
    from redraft.benchmarks.acceptance import Options
    from redraft.benchmarks.baselines import ABLATIONS
    from redraft.benchmarks.replay_files import each_file
    from redraft.errors import RedraftError

    unknown = [name for name in names if name not in ABLATIONS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]}; there are {', '.join(ABLATIONS)}", param_hint="--ablation")
    options = Options(
        concurrency=concurrency,
        replay_prompts=replay_prompts,
        drafted_per_step=drafted_per_step,
        min_survival=min_survival,
    )
    results: list[dict[str, Any]] = []
    try:
        for trace, progress in each_file(files, tokenizer, max_tokens, samples_per_epoch, epochs):
            results += ablation.ablate(trace, options, names, progress=progress)
    except RedraftError as error:
        raise click.ClickException(str(error)) from None
    nothing = ablation.useless(results)
    if as_json:
        from redraft.provenance import provenance

        click.echo(json.dumps({"results": results, "gain_nothing": nothing} | provenance()))
        return
    _print(results)
    click.echo(f"gain less than {ablation.NOTHING:.1%} on every file: {', '.join(nothing) or 'none'}")


def _print(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "drafter", "gain of everything", *COLUMNS.values())
    for entry in results:
        figures = [f"{entry[key]:.3f}" for key in COLUMNS]
        table.add_row(str(entry["file"]), str(entry["drafter"]), f"{entry['gain']:+.2%}", *figures)
    Console(width=max(Console().width, 140)).print(table)
