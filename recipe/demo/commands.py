"""The command `redraft demo`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from redraft.errors import RedraftError
from redraft.recipe.demo.choices import MODELS, TRAINER_MODES


@click.command()
@click.option(
    "--model",
    type=click.Choice(MODELS),
    default="tiny",
    envvar="MODEL",
    show_envvar=True,
    help="tiny: a small policy, trained here first. smollm2: SmolLM2-135M-Instruct.",
)
@click.option(
    "--small",
    is_flag=True,
    envvar="SMALL",
    show_envvar=True,
    help="A shorter run, to see that everything works.",
)
@click.option(
    "--epochs", type=click.IntRange(1), help="Passes over the prompts, in place of the model's own number."
)
@click.option(
    "--trainer-mode",
    type=click.Choice(TRAINER_MODES),
    default="sync",
    show_default=True,
    help="verl's trainer: one step after the other, or rollouts that are aborted and resumed around updates.",
)
@click.option("--seed", type=int, help="Seed of the order of the prompts, in place of 1.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/demo"),
    help="Folder of report, logs and weights; what is there is replaced.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of trained and converted models, kept from run to run.  [default: $XDG_CACHE_HOME/redraft]",
)
def demo(
    model: str,
    small: bool,
    epochs: int | None,
    trainer_mode: str,
    seed: int | None,
    out: Path,
    cache: Path | None,
) -> None:
    """Train a small policy with GRPO, with drafting on, and watch acceptance climb.

    Starts a draft server and verl with vLLM, all on the CPU, trains for several epochs over the same prompts, then
    measures the same prompts and weights with and without drafting. At most 15 minutes on 2 cores (smollm2: 25,
    small: 5).
    """
    from rich.console import Console

    from redraft.recipe.demo import report
    from redraft.recipe.demo.run import Demo, default_cache
    from redraft.recipe.demo.settings import choose

    console = Console()
    settings = choose(model, small=small, epochs=epochs, seed=seed, trainer_mode=trainer_mode)
    command = shlex.join(["redraft", *sys.argv[1:]])
    try:
        result = Demo(settings, out, cache or default_cache(), command, console).run()
    except RedraftError as error:
        raise click.ClickException(str(error)) from None
    console.print(report.table(result))
    for sentence in (*result["verdicts"], *result["notes"]):
        console.print(f"- {sentence}", highlight=False)
    console.print(
        f"\nreport   {out / 'report.html'}\nfigures  {out / 'report.json'}, {out / 'acceptance.png'}",
        highlight=False,
    )
    console.print(f"logs     {out}/*.log\nweights  {out / 'weights'}", highlight=False)
    console.print(f"took     {result['phases']['total']:.0f} s", highlight=False)
