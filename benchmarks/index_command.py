"""`redraft bench index`: its options and its table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from redraft.errors import FailedPrecondition, RedraftError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redraft.benchmarks.groups import Trace
    from redraft.benchmarks.index import Result

# Key of a result, column title, format, bar (the goals; the figure must not be above it).
COLUMNS = [
    ("frozen_bytes_per_token", "frozen B/token", "{:.1f}", 20.0),
    ("build_us_per_token", "build us/token", "{:.3f}", 0.5),
    ("live_append_us_per_token", "append us/token", "{:.3f}", 0.5),
    ("live_bytes_per_token", "live B/token", "{:.1f}", 64.0),
    ("draft_us_p50", "draft us p50", "{:.2f}", 0.5),
    ("draft_us_p99", "p99", "{:.2f}", 5.0),
    ("step512_texts", "texts of 512", "{:.0f}", None),
    ("step512_ms_p50", "step 512 ms", "{:.3f}", 0.5),
    ("step512_threads_ms_p50", "2 threads", "{:.3f}", None),
    ("tokens_per_step", "tokens/step", "{:.2f}", None),
    ("step512_blend_ms_p50", "step 512 blend ms", "{:.3f}", 1.0),
    ("step512_blend_threads_ms_p50", "2 threads", "{:.3f}", None),
    ("tokens_per_step_blend", "tokens/step", "{:.2f}", None),
    ("rebuild_growth_bytes", "rebuild growth B", "{:,.0f}", None),
    ("open_us", "open us", "{:.1f}", 50.0),
    ("open_verified_us", "verified", "{:.0f}", None),
]


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="tokenizer.json or its folder.  [default: demo's]"
)
@click.option(
    "--prompts", type=click.IntRange(1), default=8, show_default=True, help="Prompts to read of each file."
)
@click.option(
    "--largest",
    type=click.IntRange(10_000),
    default=1_000_000,
    show_default=True,
    help="Most tokens of a synthetic trace.",
)
@click.option("--synthetic/--no-synthetic", default=True, help="Also measure synthetic traces.")
@click.option("--peers/--no-peers", default=True, help="Also measure the peers that are installed.")
@click.option(
    "--callgrind", is_flag=True, help="Count instructions with valgrind on the first trace (minutes)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def index(
    files: tuple[Path, ...],
    tokenizer: Path | None,
    prompts: int,
    largest: int,
    synthetic: bool,
    peers: bool,
    callgrind: bool,
    as_json: bool,
) -> None:
    """Measure size and speed of the indexes on recorded FILES (JSONL, .gz, .zst) and on synthetic traces.

    Bytes and CPU microseconds are per token of the responses; `draft` is one request's advance by its accepted
    tokens and a draft of 16; `step 512 ms` is one call for 512 requests through Python, appends included, and
    `2 threads` the same shared by two threads (wall time). With fewer than 512 live responses (`texts of 512`) some
    requests write the same text side by side, which is cheaper: --prompts 32 gives 512 different ones where a prompt
    has 16 samples and more.
    """
    try:
        run_index(files, tokenizer, prompts, largest, synthetic, peers, callgrind, as_json)
    except RedraftError as error:
        raise click.ClickException(str(error)) from error


def run_index(
    files: tuple[Path, ...],
    tokenizer: Path | None,
    prompts: int,
    largest: int,
    synthetic: bool,
    peers: bool,
    callgrind: bool,
    as_json: bool,
) -> None:
    """Measure and print."""
    from redraft.benchmarks import index as own
    from redraft.benchmarks import instructions
    from redraft.benchmarks import peers as others
    from redraft.provenance import provenance

    def report(what: str) -> None:
        click.echo(what, err=True)

    if peers and others.find_arctic() is None:
        report("arctic-inference is not installed here: left out (pip install arctic-inference)")
    results: list[Result] = []
    beside: list[Result] = []
    for trace in list_traces(files, tokenizer, prompts, largest, synthetic):
        result = own.measure(trace, lambda what, name=trace.name: report(f"{name}: {what}"))  # type: ignore[misc]
        if callgrind and not results:
            report(f"{trace.name}: callgrind")
            try:
                result = replace(result, instructions_per_request_step=instructions.count(trace))
            except FailedPrecondition as error:
                report(str(error))
        results.append(result)
        if peers and trace.num_tokens <= 500_000:
            beside += others.measure_peers(trace, lambda what, name=trace.name: report(f"{name}: {what}"))  # type: ignore[misc]
    if as_json:
        click.echo(
            json.dumps(
                {"results": [r.to_json() for r in results], "peers": [r.to_json() for r in beside]}
                | provenance()
            )
        )
    else:
        print_table(results, beside)


def list_traces(
    files: tuple[Path, ...], tokenizer: Path | None, prompts: int, largest: int, synthetic: bool
) -> Iterable[Trace]:
    """Yield one trace after the other, so that only one is in memory."""
    from redraft.benchmarks import groups

    found = groups.find_tokenizer(tokenizer) if files else None
    for file in files:
        assert found is not None
        yield groups.read(file, found, num_prompts=prompts)
    if synthetic:
        sizes = [size for size in (10_000, 100_000, 250_000, 1_000_000) if size <= largest]
        for size in sizes:
            yield groups.drifting(size)
        for size in sizes:
            if size != 250_000:
                yield groups.random_tokens(size)
        yield groups.loop(1, min(200_000, largest))
        yield groups.loop(3, min(200_000, largest))


def print_table(results: list[Result], beside: list[Result]) -> None:
    """Print results and peers; what misses its bar is red."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="redraft bench index: CPU time on one core, wall time on two threads")
    table.add_column("trace")
    table.add_column("index")
    table.add_column("tokens", justify="right")
    for _, title, _, bar in COLUMNS:
        table.add_column(title + (f"\n<= {bar:g}" if bar else ""), justify="right")
    for result in [*results, *beside]:
        cells = []
        for key, _, shape, bar in COLUMNS:
            value = getattr(result, key)
            text = "-" if value != value else shape.format(value)
            cells.append(f"[red]{text}" if bar and value > bar and result.name == "redraft" else text)
        table.add_row(result.trace, result.name, f"{result.tokens:,}", *cells)
    console = Console(width=max(Console().width, 190))
    console.print(table)
    for result in results:
        count = result.instructions_per_request_step
        if count == count:
            console.print(f"{result.trace}: {count:,.0f} instructions per request and step (bar 3,000)")
