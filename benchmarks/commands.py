"""The command group `redraft bench`. Each benchmark has a module of its own, imported when it is used."""

from __future__ import annotations

import click

from redraft.lazy_group import LazyGroup

COMMANDS = {
    "acceptance": ("redraft.benchmarks.acceptance_command:acceptance", "Replay recorded rollouts."),
    "ablate": ("redraft.benchmarks.ablate_command:ablate", "Switch each ingredient off in turn."),
    "cost-table": (
        "redraft.recipe.vllm.cost_table_command:cost_table",
        "Measure what a step of a vLLM engine costs.",
    ),
    "index": ("redraft.benchmarks.index_command:index", "Measure size and speed of the indexes."),
    "overhead": (
        "redraft.recipe.vllm.overhead_command:overhead",
        "Measure what drafting costs when it doesn't draft.",
    ),
    "outage": (
        "redraft.recipe.vllm.outage_command:outage",
        "Kill the draft server under a vLLM engine and compare with plain decoding.",
    ),
    "rpc": ("redraft.benchmarks.rpc_command:rpc", "Measure a draft server under load."),
    "relay": ("redraft.benchmarks.rpc_relay_command:relay", "Measure how fast siblings hear of each other."),
    "simulate": (
        "redraft.benchmarks.simulate_command:simulate",
        "Price recorded rollouts against plain decoding.",
    ),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
def bench() -> None:
    """Run a benchmark."""
