"""The command group `redraft bench`. Each benchmark has a module of its own, imported when it is used."""

from __future__ import annotations

import click

from redraft.lazy_group import LazyGroup

COMMANDS = {
    "acceptance": ("redraft.benchmarks.acceptance_command:acceptance", "Replay recorded rollouts."),
    "index": ("redraft.benchmarks.index_command:index", "Measure size and speed of the indexes."),
    "rpc": ("redraft.benchmarks.rpc_command:rpc", "Measure a draft server under load."),
    "relay": ("redraft.benchmarks.rpc_relay_command:relay", "Measure how fast siblings hear of each other."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def bench() -> None:
    """Run a benchmark."""
