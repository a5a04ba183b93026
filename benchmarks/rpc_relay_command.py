"""The command `redraft bench relay`. What it needs is imported when it runs."""

from __future__ import annotations

import json

import click

BAR_MS = 50.0
ROWS = {
    "relay_ms_p50": "token sent to token usable, median, ms",
    "relay_ms_p99": f"99th percentile, ms (at most {BAR_MS:g})",
    "relay_ms_max": "longest, ms",
    "relayed_tokens": "tokens relayed",
    "expected_tokens": "tokens expected",
    "dropped_tokens": "tokens dropped",
    "gaps": "gaps",
    "steps_late": "share of steps that the machine was late for",
    "server_cores": "cores used by the server",
    "worker_cores": "cores used by all workers",
}


@click.command()
@click.option("--groups", type=click.IntRange(1), default=64, help="Groups, all served by all workers.")
@click.option("--siblings", type=click.IntRange(2), default=16, help="Siblings of each group.")
@click.option(
    "--tokens-per-second",
    type=click.FloatRange(0, min_open=True),
    default=50.0,
    help="Tokens of each sibling a second.",
)
@click.option(
    "--seconds", type=click.FloatRange(1), default=10.0, help="How long it is measured, in seconds."
)
@click.option("--workers", type=click.IntRange(2), default=2, help="Worker processes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def relay(
    groups: int, siblings: int, tokens_per_second: float, seconds: float, workers: int, as_json: bool
) -> None:
    """Measure how fast siblings' tokens reach other workers through a draft server on this machine."""
    from redraft.benchmarks.rpc_relay import measure_relay
    from redraft.provenance import provenance

    result = measure_relay(groups, siblings, tokens_per_second, seconds, workers=workers)
    if as_json:
        setting = {
            "groups": groups,
            "siblings": siblings,
            "tokens_per_second": tokens_per_second,
            "seconds": seconds,
            "workers": workers,
        }
        click.echo(json.dumps({**result, "setting": setting, **provenance()}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"redraft bench relay: {groups} groups x {siblings} siblings, {workers} workers", box=None
    )
    table.add_column("what")
    table.add_column("figure", justify="right")
    for key, title in ROWS.items():
        value = result[key]
        text = f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
        table.add_row(title, f"[red]{text}" if key == "relay_ms_p99" and value > BAR_MS else text)
    Console().print(table)
