"""The command `redraft bench soak`. What it needs is imported when it runs."""

from __future__ import annotations

import json

import click


@click.command("soak")
@click.option("--minutes", type=click.FloatRange(min=0.5), default=45.0, help="How long there is load.")
@click.option(
    "--restart-every",
    type=click.FloatRange(min=5),
    default=180.0,
    help="Seconds between restarts of a server.",
)
@click.option("--at-once", type=click.IntRange(1), default=16, help="Requests that the engine runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def soak(minutes: float, restart_every: float, at_once: int, as_json: bool) -> None:
    """Run an engine under aborts, cancellations and dying servers; check memory, stuck requests and what is stored.

    Exit status 1 when something was found.
    """
    from rich.console import Console
    from rich.table import Table

    from redraft.provenance import provenance
    from redraft.recipe.vllm.soak import soak as run

    report = run(
        minutes,
        restart_seconds=restart_every,
        at_once=at_once,
        progress=lambda text: click.echo(text, err=True),
    )
    figures = report.to_json()
    if as_json:
        click.echo(json.dumps({**provenance(), **figures}))
    else:
        table = Table(
            "process",
            "MiB, warm",
            "MiB, last",
            "MiB, most",
            "growth",
            title=f"memory over {minutes:g} minutes",
        )
        for name, memory in figures["memory"].items():
            sizes = (f"{memory[key]:.1f}" for key in ("first_mib", "last_mib", "most_mib"))
            growth = "" if memory["growth"] is None else f"{100 * memory['growth']:+.2f} %"
            table.add_row(name, *sizes, growth)
        Console().print(table)
        click.echo(f"restarts of a server: {report.restarts}; load: {figures['load']}")
        found = {name: figures[name] for name in ("missing", "repeated", "changed", "unknown")}
        click.echo(f"of what was published: {found}")
        click.echo("failures: " + ("; ".join(figures["failures"]) or "none"))
    if figures["failures"]:
        raise SystemExit(1)
