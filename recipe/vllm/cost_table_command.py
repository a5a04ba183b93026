"""The command `redraft bench cost-table`. What it needs is imported when it runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from redraft.recipe.vllm.click_options import whole_numbers


@click.command("cost-table")
@click.option("--model", required=True, help="Hugging Face folder of the model.")
@click.option(
    "--requests", default="1,2,4,8,16,32", callback=whole_numbers, help="Numbers of running requests."
)
@click.option("--most-drafts", type=click.IntRange(1, 128), default=8, help="Most draft tokens a request.")
@click.option("--repeats", type=click.IntRange(1), default=9, help="Steps for each cell; the median counts.")
@click.option("--prompt-length", type=click.IntRange(1), default=64, help="Tokens.")
@click.option("--dtype", default="auto", help="As vLLM takes it.")
@click.option("--name", help="Name of the table; default: the folder's.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the table there.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def cost_table(
    model: str,
    requests: list[int],
    most_drafts: int,
    repeats: int,
    prompt_length: int,
    dtype: str,
    name: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure what a step of a vLLM engine costs, by running requests and draft tokens."""
    from dataclasses import replace

    from rich.console import Console
    from rich.table import Table

    from redraft.recipe.vllm.cost_table import measure

    table = measure(
        model,
        requests,
        most_drafts=most_drafts,
        repeats=repeats,
        prompt_length=prompt_length,
        dtype=dtype,
        progress=lambda count: click.echo(f"{count} requests: done", err=True),
    )
    table = replace(table, name=name or table.name)
    text = json.dumps(table.to_json())
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        click.echo(text)
        return
    shown = Table(
        "requests",
        *(f"{tokens:.0f}" for tokens in table.draft_tokens),
        title="ms by draft tokens of the batch",
    )
    for count, row in zip(table.requests, table.seconds, strict=True):
        shown.add_row(f"{count:.0f}", *(f"{1e3 * value:.2f}" for value in row))
    Console(width=max(Console().width, 60 + 8 * len(table.draft_tokens))).print(shown)
