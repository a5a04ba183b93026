"""The command `redraft bench overhead`. What it needs is imported when it runs."""

from __future__ import annotations

import json

import click

from redraft.recipe.vllm.click_options import whole_numbers


@click.command("overhead")
@click.option(
    "--model",
    default="tiny",
    help="tiny or 135M, a Llama of that shape with random weights, or the folder of a Hugging Face model.",
)
@click.option("--requests", default="1,16,64", callback=whole_numbers, help="Numbers of running requests.")
@click.option(
    "--engine",
    "names",
    multiple=True,
    type=click.Choice(["asynchronous", "empty", "redraft"]),
    help="What is compared with plain decoding; default: all.",
)
@click.option("--rounds", type=click.IntRange(4), default=40, help="How often; the median counts.")
@click.option("--steps", type=click.IntRange(1), default=25, help="Engine steps of a round.")
@click.option("--dtype", default="float32", help="As vLLM takes it.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def overhead(
    model: str,
    requests: list[int],
    names: tuple[str, ...],
    rounds: int,
    steps: int,
    dtype: str,
    as_json: bool,
) -> None:
    """Measure what drafting costs an engine that drafts nothing, against plain decoding, in CPU time."""
    from rich.console import Console
    from rich.table import Table

    from redraft.provenance import provenance
    from redraft.recipe.vllm.overhead import ENGINES, measure

    rows = measure(
        model,
        requests,
        names=names or tuple(ENGINES),
        dtype=dtype,
        rounds=rounds,
        steps=steps,
        progress=lambda text: click.echo(text, err=True),
    )
    if as_json:
        figures = {"model": model, "dtype": dtype, "rounds": rounds, "steps": steps}
        click.echo(json.dumps({**provenance(), **figures, "rows": [row.to_json() for row in rows]}))
        return
    table = Table(
        "requests",
        "engine",
        "CPU ms",
        "wall ms",
        "against plain",
        "drafting, CPU ms",
        "vLLM's third call, CPU ms",
        "both, of plain",
        title=f"one step of {model}",
    )
    for row in rows:
        table.add_row(
            str(row.requests),
            row.engine,
            f"{1e3 * row.cpu:.3f}",
            f"{1e3 * row.wall:.3f}",
            f"{100 * row.overhead:+.2f} % ± {100 * row.error:.2f}",
            "" if row.drafting is None else f"{1e3 * row.drafting:.4f}",
            "" if row.taking is None else f"{1e3 * row.taking:.4f}",
            "" if row.known_share is None else f"{100 * row.known_share:.2f} %",
        )
    Console(width=max(Console().width, 120)).print(table)
