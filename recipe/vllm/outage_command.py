"""The command `redraft bench outage`. What it needs is imported when it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

ROWS = {
    "outage_speed": "speed with an outage, plain decoding = 1 (at least 0.98)",
    "healthy_speed": "speed with a server that stays",
    "outage_tokens_per_second": "tokens a second with an outage",
    "healthy_tokens_per_second": "tokens a second with a server that stays",
    "plain_tokens_per_second": "tokens a second without drafting",
    "requests": "requests rolled out during outages",
    "answered": "of them answered",
    "resumed_seconds": "seconds from a server's return until it was asked for an index",
}
_BAR = 0.98


@click.command()
@click.option(
    "--model",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Hugging Face folder of the model.",
)
@click.option("--prompts", type=click.IntRange(1), default=8, help="Prompts of a batch.")
@click.option("--responses", type=click.IntRange(1), default=4, help="Siblings of each prompt.")
@click.option("--max-tokens", type=click.IntRange(8), default=192, help="Longest response, in tokens.")
@click.option(
    "--draft-tokens", type=click.IntRange(1), default=4, help="Most draft tokens for a request in a step."
)
@click.option("--temperature", type=click.FloatRange(0), default=1.0)
@click.option("--rounds", type=click.IntRange(1), default=3, help="Rollouts of each kind; medians count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def outage(
    model: Path,
    prompts: int,
    responses: int,
    max_tokens: int,
    draft_tokens: int,
    temperature: float,
    rounds: int,
    as_json: bool,
) -> None:
    """Kill the draft server in the middle of rollouts on vLLM, bring it back, and compare with plain decoding.

    A rollout is four batches, one after the other: the server dies in the middle of the first and comes back in that
    of the third.
    """
    from redraft.errors import RedraftError
    from redraft.provenance import provenance
    from redraft.recipe.vllm.outage import Setting, measure

    setting = Setting(
        prompts=prompts,
        responses=responses,
        max_tokens=max_tokens,
        draft_tokens=draft_tokens,
        temperature=temperature,
        rounds=rounds,
    )
    try:
        result = measure(model, setting, lambda text: click.echo(text, err=True))
    except RedraftError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(result | {"setting": asdict(setting), "model": model.name} | provenance()))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title="redraft bench outage", box=None)
    table.add_column("what")
    table.add_column("figure", justify="right")
    for key, title in ROWS.items():
        value = result[key]
        text = "never" if value is None else f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
        table.add_row(title, f"[red]{text}" if key == "outage_speed" and value < _BAR else text)
    Console().print(table)
