"""The command `redraft bench simulate`. What it needs is imported when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

OUT = click.Path(dir_okay=False, path_type=Path)
COLUMNS = {
    "speedup": "speed-up",
    "speedup_known_costs": "costs known",
    "tokens_per_step": "tokens/step",
    "drafted_per_step": "drafted",
    "steps_with_draft": "drafting",
    "rule_of_oracle": "of oracle",
    "rule_length": "length",
    "oracle_length": "oracle's",
}


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--table", "tables", multiple=True, help="Cost table: a shipped one's name or a file; default: all."
)
@click.option(
    "--concurrency", "at_once", multiple=True, type=click.IntRange(1), help="Default: 1, 2, 4 ... 512."
)
@click.option("--tokenizer", help="Hugging Face folder or name for text; default: SmolLM2's.")
@click.option(
    "--samples-per-epoch", type=click.IntRange(1), help="Cut a file of one epoch; else the first N."
)
@click.option("--epochs", type=click.IntRange(1), help="The first K epochs.")
@click.option("--horizon", type=click.IntRange(1, 128), default=16, help="Most draft tokens of a request.")
@click.option(
    "--min-survival", type=click.FloatRange(0, 1), default=0.25, help="Least survival of a proposal."
)
@click.option("--policy", type=click.Choice(["longest", "blend"]), default="longest", help="What proposes.")
@click.option(
    "--noise", type=click.FloatRange(0), default=0.1, help="Spread of the step times that are seen."
)
@click.option("--max-tokens", type=click.IntRange(1), default=12000, help="Cut longer responses.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--png", type=OUT, help="Write the curves.")
def simulate(
    files: tuple[Path, ...],
    tables: tuple[str, ...],
    at_once: tuple[int, ...],
    tokenizer: str | None,
    samples_per_epoch: int | None,
    epochs: int | None,
    horizon: int,
    min_survival: float,
    policy: str,
    noise: float,
    max_tokens: int,
    as_json: bool,
    png: Path | None,
) -> None:
    """Price recorded rollouts: time against plain decoding, by concurrency."""
    from rich.console import Console
    from rich.progress import Progress

    from redraft.benchmarks.simulate import Options, load, run, shipped_tables
    from redraft.benchmarks.traces import read
    from redraft.errors import RedraftError

    options = Options(horizon=horizon, min_survival=min_survival, policy=policy, noise=noise)
    names = tables or tuple(shipped_tables())
    counts = at_once or tuple(2**i for i in range(10))
    results: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        try:
            task = progress.add_task("pricing", total=len(files) * len(names) * len(counts))
            for file in files:
                trace = read(file, tokenizer, max_tokens).cut(samples_per_epoch, epochs)
                for name in names:
                    for count in counts:
                        results += run(trace, load(name), count, options)
                        progress.advance(task)
        except RedraftError as error:
            raise click.ClickException(str(error)) from None
    if png is not None:
        from redraft.benchmarks.simulate_plots import draw

        draw(results, png)
    if as_json:
        click.echo(json.dumps({"results": results}))
        return
    _print(results)


def _print(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "table", "epoch", "at once", *COLUMNS.values())
    for entry in sorted(results, key=lambda entry: (entry["file"], entry["table"], entry["epoch"])):
        figures = [f"{entry[key]:.3f}" for key in COLUMNS]
        table.add_row(entry["file"], entry["table"], str(entry["epoch"]), str(entry["concurrency"]), *figures)
    Console(width=max(Console().width, 150)).print(table)
    worst = max(results, key=lambda entry: float(entry["time_ratio"]))
    click.echo(
        f"slowest against plain decoding: {worst['time_ratio']:.3f} of its time ({worst['file']}, {worst['table']},"
        f" {worst['concurrency']} at once, epoch {worst['epoch']})"
    )
