"""The command `redraft stats`."""

from __future__ import annotations

import json
from typing import Any

import click

from redraft.client.api import DraftClient
from redraft.errors import RedraftError
from redraft.v1 import common_pb2, stats_pb2

_DEFAULT_ADDRESS = "127.0.0.1:50061"


def mean_acceptance_length(acceptance: common_pb2.Acceptance) -> float:
    """Return emitted tokens a verification step, bonus token included; 0 without steps."""
    return acceptance.emitted / acceptance.steps if acceptance.steps else 0.0


def acceptance_rate(acceptance: common_pb2.Acceptance) -> float:
    """Return accepted / drafted tokens; 0 without drafts."""
    drafted = sum(sum(source.drafted) for source in acceptance.sources)
    accepted = sum(sum(source.accepted) for source in acceptance.sources)
    return accepted / drafted if drafted else 0.0


@click.command()
@click.option(
    "--addresses",
    multiple=True,
    envvar="REDRAFT_ADDRESSES",
    default=[_DEFAULT_ADDRESS],
    help="Servers as host:port, separated by commas; may be given several times.",
)
@click.option("--run", default="", help="Only this run.")
@click.option("--timeout", default=5.0, help="Longest wait for a server, in seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def stats(addresses: tuple[str, ...], run: str, timeout: float, as_json: bool) -> None:
    """Show what draft servers hold and how their drafts fare."""
    failed = False
    answers: dict[str, Any] = {}
    for address in (part for item in addresses for part in item.split(",") if part):
        try:
            with DraftClient(address, timeout=timeout) as client:
                answers[address] = client.stats(run)
        except RedraftError as error:
            failed = True
            click.echo(f"{address}: {error.code}: {error}", err=True)
    if as_json:
        from google.protobuf import json_format

        shown = {address: json_format.MessageToDict(answer) for address, answer in answers.items()}
        click.echo(json.dumps(shown, indent=2))
    else:
        for address, answer in answers.items():
            _show(address, answer)
    if failed:
        raise SystemExit(1)


def _show(address: str, answer: stats_pb2.GetStatsResponse) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    server = answer.server
    console.print(
        f"[bold]{address}[/bold]  redraft {server.version}, up {server.uptime_seconds:.0f} s, "
        f"history {server.store_bytes / 1e6:.1f} MB, {server.indexes} indexes of {server.index_bytes / 1e6:.1f} MB "
        f"({server.index_builds} built, {server.index_hits} from memory, {server.index_not_modified} not modified)"
    )
    relay = server.relay
    if relay.streams or relay.received_tokens:
        dropped = f", [yellow]{_short(relay.dropped_tokens)} dropped[/]" if relay.dropped_tokens else ""
        console.print(
            f"relay: {relay.streams} workers, {relay.groups} groups ({relay.shared_groups} shared) of "
            f"{relay.held_bytes / 1e6:.1f} MB, {_short(relay.received_tokens)} tokens received, "
            f"{_short(relay.sent_tokens)} sent{dropped}, lag {1e3 * relay.lag_seconds:.0f} ms"
        )
    if server.damaged_records or server.refused_groups:
        console.print(
            f"[yellow]{server.damaged_records} damaged records, {server.refused_groups} refused groups"
        )
    table = Table()
    table.add_column("run")
    for column in ("epoch", "prompts", "responses", "tokens", "reward", "tokens/step", "accepted"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("accepted/drafted")
    for run in answer.runs:
        head = (run.run.name, "all", str(run.prompts), str(run.responses), _short(run.tokens), "")
        table.add_row(*head, *_cells(run.acceptance if run.HasField("acceptance") else None))
        for epoch in run.epochs:
            reward = f"{epoch.reward_sum / epoch.rewarded:.3f}" if epoch.rewarded else ""
            head = ("", str(epoch.epoch), "", str(epoch.responses), _short(epoch.tokens), reward)
            table.add_row(*head, *_cells(epoch.acceptance if epoch.HasField("acceptance") else None))
    console.print(table)
    for run in answer.runs:
        for worker in run.workers:
            console.print(
                f"{run.run.name}: {worker.worker}: {mean_acceptance_length(worker.acceptance):.2f} tokens/step, "
                f"reported {worker.age_seconds:.0f} s ago"
            )


def _cells(acceptance: common_pb2.Acceptance | None) -> tuple[str, str, str]:
    if acceptance is None:
        return ("", "", "")
    sources = [f"{s.source} {_short(sum(s.accepted))}/{_short(sum(s.drafted))}" for s in acceptance.sources]
    return (
        f"{mean_acceptance_length(acceptance):.2f}",
        f"{acceptance_rate(acceptance):.1%}",
        ", ".join(sources),
    )


def _short(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 10 * size:
            return f"{count / size:.1f}{unit}"
    return str(count)
