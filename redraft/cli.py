"""The `redraft` command: one lazy group, so that `redraft --help` imports neither grpc nor torch.

Each command lives in the package that does its work; this table only knows their names, which keeps the
dependencies one way.
"""

from __future__ import annotations

import click

from redraft._version import __version__
from redraft.lazy_group import LazyGroup

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


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="redraft")
def main() -> None:
    """Fast, exact rollouts for LLM reinforcement learning.

    redraft drafts the next tokens from what the same policy already wrote for the same prompt.
    """


if __name__ == "__main__":
    main()
