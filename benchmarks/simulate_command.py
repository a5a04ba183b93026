"""The command `redraft bench simulate`. What it needs is imported when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from redraft.benchmarks.replay_options import trace_options

OUT = click.Path(dir_okay=False, path_type=Path)
COLUMNS = {
    "speedup": "speed-up",
    "speedup_known_costs": "costs known",
    "tokens_per_step": "tokens/step",
    "drafted_per_step": "drafted",
    "steps_with_draft": "drafting",
    "time_ratio": "time",
    "rule_of_oracle": "of oracle",
    "rule_of_patient_oracle": "of patient",
    "rule_of_informed_oracle": "of informed",
    "rule_of_best_length": "of one length",
    "rule_length": "length",
    "oracle_length": "oracle's",
}

NEAR = 0.95
"""Share of an oracle's tokens a second that the budget is to reach."""
SHOWN = 20
"""Most cells that are named for not reaching it."""


@click.command()
@trace_options
@click.option(
    "--table", "tables", multiple=True, help="Cost table: a shipped one's name or a file; default: all."
)
@click.option(
    "--concurrency", "at_once", multiple=True, type=click.IntRange(1), help="Default: 1, 2, 4 ... 512."
)
@click.option("--horizon", type=click.IntRange(1, 128), default=16, help="Most draft tokens of a request.")
@click.option(
    "--min-survival", type=click.FloatRange(0, 1), default=0.25, help="Least survival of a proposal."
)
@click.option("--policy", type=click.Choice(["blend", "longest"]), default="blend", help="What proposes.")
@click.option(
    "--noise", type=click.FloatRange(0), default=0.1, help="Spread of the step times that are seen."
)
@click.option(
    "--responses",
    type=click.IntRange(1),
    default=4,
    help="Priced for each request that runs at once, at least.",
)
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
    responses: int,
    max_tokens: int,
    as_json: bool,
    png: Path | None,
) -> None:
    """Price recorded rollouts: time against plain decoding, by concurrency."""
    from redraft.benchmarks.replay_files import each_file
    from redraft.benchmarks.simulate import Options, load, run, shipped_tables
    from redraft.errors import RedraftError

    options = Options(
        horizon=horizon,
        min_survival=min_survival,
        policy=policy,
        per_slot=responses,
        least=8 * responses,
        noise=noise,
    )
    names = tables or tuple(shipped_tables())
    counts = at_once or tuple(2**i for i in range(10))
    cells = [(name, count) for name in names for count in counts]
    results: list[dict[str, Any]] = []
    try:
        loaded = {name: load(name) for name in names}
        for trace, progress in each_file(files, tokenizer, max_tokens, samples_per_epoch, epochs):
            for place, (name, count) in enumerate(cells):
                progress(f"{name}, {count} at once", place / len(cells))
                results += run(trace, loaded[name], count, options)
    except RedraftError as error:
        raise click.ClickException(str(error)) from None
    if png is not None:
        from redraft.benchmarks.simulate_plots import draw

        draw(results, png)
    if as_json:
        from redraft.provenance import provenance

        found = {"results": results, "switches_off": switches_off(results)}
        click.echo(json.dumps(found | provenance()))
        return
    _print(results)


def switches_off(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each file, table and epoch the fewest requests at once from which on a draft is rare: fewer than one
    step in twenty has one. None: it never is."""
    found = []
    for key in dict.fromkeys((entry["file"], entry["table"], entry["epoch"]) for entry in results):
        own = [entry for entry in results if (entry["file"], entry["table"], entry["epoch"]) == key]
        off: int | None = None
        for entry in sorted(own, key=lambda entry: -int(entry["concurrency"])):
            if entry["steps_with_draft"] >= 0.05:
                break
            off = entry["concurrency"]
        found.append({"file": key[0], "table": key[1], "epoch": key[2], "concurrency": off})
    return found


def _print(results: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "table", "epoch", "at once", *COLUMNS.values())
    for entry in sorted(results, key=lambda entry: (entry["file"], entry["table"], entry["epoch"])):
        figures = [f"{entry[key]:.3f}" for key in COLUMNS]
        table.add_row(entry["file"], entry["table"], str(entry["epoch"]), str(entry["concurrency"]), *figures)
    Console(width=max(Console().width, 150)).print(table)
    click.echo("\nRequests at once from which on hardly anything is drafted:")
    for entry in switches_off(results):
        off = entry["concurrency"] or "never"
        click.echo(f"  {entry['file']}, {entry['table']}, epoch {entry['epoch']}: {off}")
    click.echo("\nOver all cells, the worst:")
    for what, key, pick in (
        ("time over plain decoding's (must be <= 1.02)", "time_ratio", max),
        ("of an oracle's choice of the number of tokens, knowing each step's luck", "rule_of_oracle", min),
        ("of the same that maximises over all steps, not each", "rule_of_patient_oracle", min),
        ("of one that knows how often such tokens are accepted, not which", "rule_of_informed_oracle", min),
        ("of the best single length in hindsight", "rule_of_best_length", min),
    ):
        entry = pick(results, key=lambda entry: float(entry[key]))
        click.echo(f"  {what}: {entry[key]:.3f} ({_cell(entry)})")
    for key, who in (
        ("rule_of_oracle", "the oracle that knows each step's luck"),
        ("rule_of_informed_oracle", "the informed one"),
    ):
        below = sorted((entry for entry in results if entry[key] < NEAR), key=lambda entry: float(entry[key]))
        click.echo(f"\nBelow {NEAR} of {who}: {len(below)} of {len(results)} cells")
        for entry in below[:SHOWN]:
            click.echo(f"  {entry[key]:.3f}: {_cell(entry)}")


def _cell(entry: dict[str, Any]) -> str:
    return f"{entry['file']}, {entry['table']}, {entry['concurrency']} at once, epoch {entry['epoch']}"
