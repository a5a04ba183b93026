"""The `redraft` command: one lazy group, so that `redraft --help` imports neither grpc nor torch.

Each command lives in the package that does its work; this table only knows their names, which keeps the
dependencies one way.
"""

from __future__ import annotations

import importlib
from typing import cast

import click

from redraft._version import __version__

COMMANDS = {
    "serve": ("redraft.server.commands:serve", "Run a draft server."),
    "stats": ("redraft.client.commands:stats", "Show what a draft server holds and how its drafts fare."),
    "history": ("redraft.server.commands:history", "Import and export the history of rollouts."),
    "bench": ("redraft.benchmarks.commands:bench", "Run a benchmark."),
    "demo": (
        "redraft.recipe.demo.commands:demo",
        "Train a small model with GRPO and watch acceptance climb.",
    ),
    "doctor": ("redraft.recipe.doctor:doctor", "Check this machine and say what to fix."),
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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="redraft")
def main() -> None:
    """Fast, exact rollouts for LLM reinforcement learning.

    redraft drafts the next tokens from what the same policy already wrote for the same prompt.
    """


if __name__ == "__main__":
    main()
