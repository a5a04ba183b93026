"""The plots and the page of `redraft bench acceptance`."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

COLUMNS = (
    "tokens_per_step",
    "drafted_per_step",
    "accepted_per_step",
    "acceptance_rate",
    "coverage",
    "steps_without_draft",
)
Entry = dict[str, Any]


def last_entries(results: list[Entry]) -> list[Entry]:
    """Return the last epoch's entry of each file and drafter."""
    last = {(entry["file"], entry["drafter"]): entry for entry in results}
    return list(last.values())


def slices_of(entry: Entry, view: str) -> list[tuple[str, Entry]]:
    """Return the slices of an entry that have steps: by "position", "source" or "turn"."""
    slices = entry[f"by_{view}"]
    named = slices.items() if isinstance(slices, dict) else enumerate(slices, 1)
    return [(str(name), counts) for name, counts in named if counts["steps"]]


def draw(results: list[Entry], png: Path | None, page: Path | None) -> None:
    """Write plots: by epoch, by position in the response, by turn where there are any, and the reliability diagram.

    Args:
        results: entries of `run`.
        png: where the picture goes, or None.
        page: where an HTML page with the picture and the tables goes, or None.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = list(dict.fromkeys(entry["file"] for entry in results))
    figure, axes = pyplot.subplots(len(files), 3, figsize=(18, 4.5 * len(files)), squeeze=False)
    for (epochs, places, reliability), file in zip(axes, files, strict=True):
        own = [entry for entry in results if entry["file"] == file]
        view = "turn" if any(slices_of(entry, "turn") for entry in own) else "position"
        for drafter in dict.fromkeys(entry["drafter"] for entry in own):
            entries = [entry for entry in own if entry["drafter"] == drafter]
            numbers = [entry["epoch"] for entry in entries]
            epochs.plot(numbers, [entry["tokens_per_step"] for entry in entries], marker="o", label=drafter)
            slices = slices_of(entries[-1], view)
            names, values = [name for name, _ in slices], [counts["tokens_per_step"] for _, counts in slices]
            places.plot(names, values, marker=".", label=drafter)
        epochs.set(title=file, xlabel="epoch", ylabel="tokens per step")
        epochs.legend(fontsize="small")
        label = "turn" if view == "turn" else "position in the response, tokens"
        places.set(title="last epoch", xlabel=label, ylabel="tokens per step")
        reliability.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for entry in last_entries(own)[:1]:
            bins = [i for i, count in enumerate(entry["reliability_count"]) if count > 0]
            reliability.plot(
                [entry["reliability_predicted"][i] for i in bins],
                [entry["reliability_observed"][i] for i in bins],
                marker="o",
            )
            error = entry["calibration_error"]
            reliability.set_title(f"{entry['drafter']}, last epoch: calibration error {error:.3f}")
        reliability.set(xlabel="predicted survival", ylabel="observed", xlim=(0, 1), ylim=(0, 1))
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    pyplot.close(figure)
    if png is not None:
        png.write_bytes(picture.getvalue())
    if page is not None:
        page.write_text(_page(results, picture.getvalue()), encoding="utf-8")


def _page(results: list[Entry], picture: bytes) -> str:
    figures = (*COLUMNS, "draft_us_p50", "calibration_error")
    by_epoch = [
        ([entry["file"], entry["drafter"], entry["epoch"]], [entry[name] for name in figures])
        for entry in results
    ]
    tables = "<h2>By epoch</h2>" + _table(("file", "drafter", "epoch", *figures), by_epoch)
    for view in ("position", "source", "turn"):
        rows = [
            (
                [entry["file"], entry["drafter"], name, counts["steps"]],
                [counts[column] for column in (*COLUMNS, "draft_us")],
            )
            for entry in last_entries(results)
            for name, counts in slices_of(entry, view)
        ]
        if rows:
            head = ("file", "drafter", view, "steps", *COLUMNS, "draft_us")
            tables += f"<h2>Last epoch by {view}</h2>" + _table(head, rows)
    data = base64.b64encode(picture).decode()
    return (
        "<!doctype html><meta charset='utf-8'><title>redraft: acceptance</title>"
        "<style>body{font-family:sans-serif}td,th{padding:2px 8px;text-align:left}img{max-width:100%}</style>"
        f"<h1>Acceptance</h1><img alt='plots' src='data:image/png;base64,{data}'>{tables}\n"
    )


def _table(head: tuple[str, ...], rows: list[tuple[list[Any], list[float]]]) -> str:
    lines = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(str(name))}</td>" for name in names)
        + "".join(f"<td>{value:.3f}</td>" for value in values)
        + "</tr>"
        for names, values in rows
    )
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{lines}</table>"
