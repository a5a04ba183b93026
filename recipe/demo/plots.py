"""The report's figures: one a question, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, GRID = "#2b2f36", "#d9dde3"
DRAFTING, PLAIN, REWARD = "#1f6fb2", "#a9b1bc", "#2a8c5a"
SOURCES = ("#1f6fb2", "#e08a1e", "#7a5aa6", "#2a8c5a")
STYLE = {"font.size": 10, "svg.fonttype": "none"}


@dataclass(frozen=True)
class Picture:
    """A figure of the page."""

    question: str
    caption: str
    svg: str


def figures(report: dict[str, Any]) -> list[Picture]:
    """Return the page's figures; one whose data are missing is left out."""
    n = report["concurrency"]
    asked: list[tuple[str, str, Callable[[Axes], bool]]] = [
        (
            "Does acceptance climb across the epochs?",
            "Tokens a request gets from an engine step that verified a draft, bonus token included, measured in the "
            "training run. Plain decoding gets 1. Small dots: single training steps.",
            lambda axes: draw_acceptance(axes, report),
        ),
        (
            "Does the policy learn?",
            "Mean reward of all responses of an epoch, as scored by reasoning-gym. Small dots: single training steps.",
            lambda axes: draw_reward(axes, report),
        ),
        (
            "Where do the accepted tokens come from?",
            "Share of the accepted draft tokens by source: the responses of earlier epochs (history), or the prompt "
            "and the sibling responses that are being generated (live).",
            lambda axes: draw_sources(axes, report),
        ),
        (
            f"Does drafting pay at {n} requests at once?",
            "Generated tokens a second of the same prompts and weights with and without drafting, median.",
            lambda axes: draw_speed(axes, report["epochs"]),
        ),
        (
            "Does drafting pay for one request at a time?",
            "As above with a single request in the engine, as in the long tail of a rollout.",
            lambda axes: draw_speed(axes, report["single"]),
        ),
    ]
    pictures = []
    for question, caption, draw in asked:
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        if draw(_axes(figure.add_subplot())):
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
            text = buffer.getvalue()
            pictures.append(Picture(question, caption, text[text.index("<svg") :]))
    return pictures


def summary(report: dict[str, Any]) -> bytes:
    """Return a PNG with acceptance, reward and speed side by side, for a README."""
    figure = Figure(figsize=(11, 3.3), layout="constrained", dpi=160, facecolor="white")
    left, middle, right = (_axes(axes) for axes in figure.subplots(1, 3))
    draw_acceptance(left, report)
    left.set_title("Mean acceptance length", fontsize=11, color=INK)
    draw_reward(middle, report)
    middle.set_title("Reward", fontsize=11, color=INK)
    if draw_speed(right, report["epochs"]):
        right.set_title(f"Generation, {report['concurrency']} requests at once", fontsize=11, color=INK)
    else:
        right.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def draw_acceptance(axes: Axes, report: dict[str, Any]) -> bool:
    """Draw the mean acceptance length by epoch; False when there is none."""
    axes.axhline(1.0, color=PLAIN, linewidth=1.2, linestyle="--")
    axes.annotate("plain decoding", (0.99, 1.0), xycoords=("axes fraction", "data"), xytext=(0, 3),
                  textcoords="offset points", ha="right", fontsize=8, color="#6b7380")  # fmt: skip
    drawn = _by_epoch(axes, report, "mean_acceptance_length", DRAFTING, "{:.2f}")
    axes.set_ylabel("tokens per step")
    axes.set_ylim(bottom=0.8)
    return drawn


def draw_reward(axes: Axes, report: dict[str, Any]) -> bool:
    """Draw the mean reward by epoch; False when there is none."""
    drawn = _by_epoch(axes, report, "reward", REWARD, "{:.2f}")
    axes.set_ylabel("mean reward")
    axes.set_ylim(bottom=0)
    return drawn


def draw_sources(axes: Axes, report: dict[str, Any]) -> bool:
    """Draw the shares of the accepted tokens as stacked bars; False when nothing was accepted."""
    epochs = report["epochs"]
    names = sorted({name for epoch in epochs for name in epoch["by_source"]})
    positions = [epoch["epoch"] for epoch in epochs]
    floor = [0.0] * len(epochs)
    for name, color in zip(names, SOURCES * (1 + len(names) // len(SOURCES)), strict=False):
        shares = [epoch["by_source"].get(name, {}).get("share") or 0.0 for epoch in epochs]
        axes.bar(positions, shares, 0.62, bottom=floor, color=color, label=name)
        floor = [low + share for low, share in zip(floor, shares, strict=True)]
    if not any(floor):
        return False
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("epoch")
    axes.set_ylabel("accepted tokens")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=len(names), frameon=False, fontsize=9)
    return True


def draw_speed(axes: Axes, rows: Sequence[dict[str, Any]]) -> bool:
    """Draw tokens a second with and without drafting as pairs of bars; False when nothing was timed."""
    timed = [row for row in rows if row["tokens_per_second"] and row["plain_tokens_per_second"]]
    if not timed:
        return False
    positions = list(range(len(timed)))
    fast = [row["tokens_per_second"] for row in timed]
    plain = [row["plain_tokens_per_second"] for row in timed]
    axes.bar([p - 0.2 for p in positions], plain, 0.38, color=PLAIN, label="plain")
    bars = axes.bar([p + 0.2 for p in positions], fast, 0.38, color=DRAFTING, label="drafting")
    axes.bar_label(
        bars, [f"{a / b:.2f}x" for a, b in zip(fast, plain, strict=True)], fontsize=8, color=INK, padding=2
    )
    axes.set_xticks(positions, [str(row["epoch"]) for row in timed])
    axes.set_xlabel("epoch")
    axes.set_ylabel("tokens per second")
    axes.set_ylim(0, 1.28 * max(fast + plain))
    axes.legend(loc="upper left", ncols=2, frameon=False, fontsize=9)
    return True


def _by_epoch(axes: Axes, report: dict[str, Any], name: str, color: str, text: str) -> bool:
    """Draw a line over the epochs with its values, and a dot for every step."""
    steps, epochs = report["steps"], [e for e in report["epochs"] if e[name] is not None]
    if not epochs:
        return False
    per_epoch = max(1, sum(step["epoch"] == epochs[0]["epoch"] for step in steps))
    seen: dict[int, int] = {}
    for step in steps:
        place = seen.get(step["epoch"], 0)
        seen[step["epoch"]] = place + 1
        if step[name] is not None:
            # The steps of an epoch are spread around its mark.
            x = step["epoch"] + 0.7 * ((place + 0.5) / per_epoch - 0.5)
            axes.plot(x, step[name], "o", color=color, markersize=3, alpha=0.35, markeredgewidth=0)
    axes.plot(
        [e["epoch"] for e in epochs], [e[name] for e in epochs], "-o", color=color, linewidth=2, markersize=5
    )
    for epoch in epochs:
        axes.annotate(text.format(epoch[name]), (epoch["epoch"], epoch[name]), xytext=(0, 8),
                      textcoords="offset points", ha="center", fontsize=9, color=INK)  # fmt: skip
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.06, y=0.2)
    return True


def _axes(axes: Axes) -> Axes:
    """Give the axes the look that all figures share."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return axes
