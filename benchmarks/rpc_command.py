"""`redraft bench rpc`: its options and its table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from redraft.errors import RedraftError

if TYPE_CHECKING:
    from redraft.benchmarks.rpc import Result

NAMES = ("publish", "fetch", "ingest", "restart", "streams", "relay")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="tokenizer.json or its folder.  [default: demo's]"
)
@click.option(
    "--full", is_flag=True, help="The sizes that the goals are stated for (minutes, 4 GB of memory)."
)
@click.option(
    "--only", type=click.Choice(NAMES), multiple=True, help="Measure this part; may be given several times."
)
@click.option("--publish-tokens", type=click.IntRange(1), help="Tokens to publish.")
@click.option(
    "--prompts", "ingest_prompts", type=click.IntRange(1), help="Prompts to ingest, 16,000 tokens each."
)
@click.option(
    "--index-memory", "index_mebibytes", type=click.IntRange(1), help="Budget for their indexes, in MiB."
)
@click.option("--restart-bytes", type=click.IntRange(1), help="Size of the history to start on, in bytes.")
@click.option("--streams", type=click.IntRange(1, 1000), help="Draft streams to hold.")
@click.option("--hold-seconds", type=click.FloatRange(1), help="How long to hold them, in seconds.")
@click.option("--fetch-seconds", type=click.FloatRange(0.1), help="How long to fetch, in seconds.")
@click.option("--relay-groups", type=click.IntRange(1), help="Groups of 16 siblings to relay.")
@click.option("--relay-seconds", type=click.FloatRange(0.5), help="How long to relay, in seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def rpc(
    files: tuple[Path, ...],
    tokenizer: Path | None,
    full: bool,
    only: tuple[str, ...],
    as_json: bool,
    **sizes: Any,
) -> None:
    """Measure a draft server in a process of its own: publishing, fetching, memory, restart, open streams, relay.

    FILES (JSONL, .gz, .zst) are recorded rollouts to publish instead of synthetic ones; the bytes that a stored token
    takes mean something only with them. The defaults take one to two minutes.
    """
    from redraft.benchmarks import groups
    from redraft.benchmarks import rpc as own
    from redraft.provenance import provenance

    chosen = replace(own.FULL if full else own.Sizes(), **{k: v for k, v in sizes.items() if v is not None})
    try:
        recorded = []
        if files:
            found = groups.find_tokenizer(tokenizer)
            recorded = [g for file in files for g in groups.read(file, found, num_prompts=10**9).groups]
        parts = [name for name in NAMES if not only or name in only]
        with _Progress(len(parts)) as report:
            result = own.measure(chosen, parts, recorded, report)
    except RedraftError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(result.to_json() | provenance()))
    else:
        print_table(result)


class _Progress:
    """A progress bar on the terminal's error stream; nothing where that is no terminal."""

    def __init__(self, parts: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=parts)
        self._begun = 0

    def __enter__(self) -> Any:
        self._bar.__enter__()
        return self._report

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def _report(self, what: str) -> None:
        self._bar.update(self._task, description=what, completed=self._begun)
        self._begun += 1


def print_table(result: Result) -> None:
    """Print the figures beside their goals; what misses its goal is red."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="redraft bench rpc")
    for column in ("what", "figure", "goal"):
        table.add_column(column, justify="left" if column == "what" else "right")

    def row(what: str, value: float | None, shape: str, goal: float | None, *, least: bool = False) -> None:
        if value is None:
            return
        missed = goal is not None and (value < goal if least else value > goal)
        sign = ">=" if least else "<="
        shown = shape.format(value)
        table.add_row(
            what,
            f"[red]{shown}" if missed else shown,
            "" if goal is None else f"{sign} {shape.format(goal)}",
        )

    row(
        "published tokens a server core second",
        result.publish_tokens_per_core_second,
        "{:,.0f}",
        5e6,
        least=True,
    )
    row("published tokens a second, one client", result.publish_tokens_per_second, "{:,.0f}", None)
    row("bytes on disk a token", result.store_bytes_per_token, "{:.2f}", 1.5)
    row("fetched bytes a second, loopback TCP", result.fetch_bytes_per_second, "{:,.0f}", 5e8, least=True)
    row("the same, index checked and usable", result.fetch_checked_bytes_per_second, "{:,.0f}", None)
    row("fetched bytes a client core second", result.fetch_bytes_per_client_core_second, "{:,.0f}", None)
    row("fetched bytes a server core second", result.fetch_bytes_per_core_second, "{:,.0f}", None)
    row("bytes of the fetched index", result.fetch_index_bytes, "{:,.0f}", None)
    # The process itself takes about 100 MB, which is more than a fifth of a small budget.
    budget = result.ingest_budget_bytes or 0
    goal = 1.2 * budget if budget >= 1 << 30 else None
    row("memory while ingesting, bytes", result.ingest_rss_bytes, "{:,.0f}", goal)
    row("tokens ingested", result.ingest_tokens, "{:,.0f}", None)
    row("restart after kill -9, seconds", result.restart_seconds, "{:.2f}", 2.0)
    row("its history, bytes", result.restart_history_bytes, "{:,.0f}", None)
    held = f"memory while {result.streams} streams are held, bytes"
    row(held, result.streams_bytes, "{:,.0f}", None)
    # Resident memory moves by about 1 % by itself.
    goal = 0.02 * (result.streams_bytes or 0)
    row("its growth, bytes", result.streams_growth_bytes, "{:,.0f}", goal)
    row("a sibling's token usable elsewhere, p99, ms", result.relay_ms_p99, "{:.1f}", 50.0)
    Console().print(table)
