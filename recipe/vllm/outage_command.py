"""The command `redraft bench outage`. What it needs is imported when it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from redraft.recipe.vllm.outage_prompts import Prompts

KINDS = {
    "healthy": "server stays",
    "outage": "server killed and brought back",
    "auto_healthy": 'server stays, budget "auto"',
    "auto_outage": 'killed and brought back, budget "auto"',
}
_BAR = 0.98
"""Slowest rollout with an outage, plain decoding = 1."""


@click.command()
@click.option(
    "--model",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Hugging Face folder of the model.",
)
@click.option(
    "--prompts-from",
    type=click.Choice(("auto", "tasks", "random")),
    default="auto",
    help="tasks: questions of the demo's tasks, which its policy was trained on; random: random tokens, to which a "
    "policy writes anything; auto: tasks if the model has a chat template.",
)
@click.option("--prompts", type=click.IntRange(1), default=8, help="Prompts of a batch.")
@click.option("--responses", type=click.IntRange(1), default=4, help="Siblings of each prompt.")
@click.option("--max-tokens", type=click.IntRange(8), default=192, help="Longest response, in tokens.")
@click.option(
    "--draft-tokens", type=click.IntRange(1), default=4, help="Most draft tokens for a request in a step."
)
@click.option("--temperature", type=click.FloatRange(0), default=1.0)
@click.option("--rounds", type=click.IntRange(1), default=3, help="Rollouts of each kind; medians count.")
@click.option("--auto/--no-auto", default=True, help='Roll out with the budget "auto" too.')
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def outage(
    model: Path,
    prompts_from: Prompts,
    prompts: int,
    responses: int,
    max_tokens: int,
    draft_tokens: int,
    temperature: float,
    rounds: int,
    auto: bool,
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
        prompts_from=prompts_from,
        prompts=prompts,
        responses=responses,
        max_tokens=max_tokens,
        draft_tokens=draft_tokens,
        temperature=temperature,
        rounds=rounds,
        auto=auto,
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

    table = Table(
        title=f"redraft bench outage: prompts from {result['prompts_from']}, plain decoding = 1", box=None
    )
    for column in ("rollout", "speed", "slowest, fastest", "by CPU time", "tokens/s", "drafted", "accepted"):
        table.add_column(column, justify="left" if column == "rollout" else "right")
    for kind, title in KINDS.items():
        if f"{kind}_speed" not in result:
            continue
        speed, speeds = result[f"{kind}_speed"], result[f"{kind}_speeds"]
        slow = kind.endswith("outage") and speed < _BAR
        table.add_row(
            title,
            f"[red]{speed:.2f}" if slow else f"{speed:.2f}",
            f"{min(speeds):.2f}, {max(speeds):.2f}",
            f"{result[f'{kind}_cpu_speed']:.2f}",
            f"{result[f'{kind}_tokens_per_second']:,.0f}",
            f"{result[f'{kind}_drafted']:.2f}",
            f"{result[f'{kind}_accepted']:.2f}",
        )
    table.add_row("no drafting", "1", "", "1", f"{result['plain_tokens_per_second']:,.0f}", "", "")
    console = Console()
    console.print(table)
    resumed = result["resumed_seconds"]
    asked = (
        "not asked for indexes again"
        if resumed is None
        else f"asked for an index again within {resumed:.1f} s"
    )
    console.print(
        f"{result['answered']:,} of {result['requests']:,} requests answered during outages; servers that came back "
        f"were {asked}. drafted, accepted: tokens for each token generated."
    )
