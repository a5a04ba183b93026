"""The command group `redraft bench`. Each benchmark has a module of its own, imported when it is used."""

from __future__ import annotations

import importlib
from typing import cast

import click

COMMANDS = {
    "acceptance": ("redraft.benchmarks.acceptance_command:acceptance", "Replay recorded rollouts."),
    "index": ("redraft.benchmarks.index_command:index", "Measure size and speed of the indexes."),
}


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, or None when there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        return cast(click.Command, getattr(importlib.import_module(module), attribute))


@click.group(cls=LazyGroup)
def bench() -> None:
    """Run a benchmark."""
