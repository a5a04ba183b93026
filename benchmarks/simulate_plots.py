"""The plot of `redraft bench simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(results: list[dict[str, Any]], png: Path) -> None:
    """Write speed-up, drafted tokens and the share of steps with a draft, by concurrency.

    A row for each file, a line for each table and epoch.

    Args:
        results: entries of `simulate.run`.
        png: where the picture goes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = list(dict.fromkeys(entry["file"] for entry in results))
    figure, axes = pyplot.subplots(len(files), 3, figsize=(19, 4.5 * len(files)), squeeze=False)
    for row, file in zip(axes, files, strict=True):
        own = [entry for entry in results if entry["file"] == file]
        lines = dict.fromkeys((entry["table"], entry["epoch"]) for entry in own)
        colors = {table: f"C{i}" for i, table in enumerate(dict.fromkeys(table for table, _ in lines))}
        for table, epoch in lines:
            entries = [entry for entry in own if (entry["table"], entry["epoch"]) == (table, epoch)]
            at_once = [entry["concurrency"] for entry in entries]
            style = {"color": colors[table], "linestyle": "--" if epoch == 0 else "-", "marker": "."}
            label = f"{table}, epoch {epoch}"
            row[0].plot(at_once, [entry["speedup"] for entry in entries], label=label, **style)
            row[1].plot(at_once, [entry["drafted_per_step"] for entry in entries], **style)
            row[2].plot(at_once, [entry["steps_with_draft"] for entry in entries], **style)
        row[0].axhline(1, color="grey", linewidth=0.8)
        row[0].set(title=file, xscale="log", xlabel="requests at once", ylabel="speed-up over plain decoding")
        row[0].legend(fontsize="small")
        row[1].set(
            xscale="log", xlabel="requests at once", ylabel="draft tokens a request and step", ylim=(0, None)
        )
        row[2].set(
            xscale="log", xlabel="requests at once", ylabel="share of steps with a draft", ylim=(0, None)
        )
    figure.tight_layout()
    figure.savefig(png, dpi=110)
    pyplot.close(figure)
