"""The plots of `redraft bench acceptance`."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

COLUMNS = ("tokens_per_step", "drafted_per_step", "acceptance_rate", "coverage", "calibration_error")


def draw(results: list[dict[str, Any]], png: Path | None, page: Path | None) -> None:
    """Write tokens per step by epoch and the reliability diagram.

    Args:
        results: entries of `run`.
        png: where the picture goes, or None.
        page: where an HTML page with the picture and the table goes, or None.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = list(dict.fromkeys(entry["file"] for entry in results))
    figure, axes = pyplot.subplots(len(files), 2, figsize=(12, 4.5 * len(files)), squeeze=False)
    for (epochs, reliability), file in zip(axes, files, strict=True):
        own = [entry for entry in results if entry["file"] == file]
        for drafter in dict.fromkeys(entry["drafter"] for entry in own):
            entries = [entry for entry in own if entry["drafter"] == drafter]
            epochs.plot(
                [entry["epoch"] for entry in entries],
                [entry["tokens_per_step"] for entry in entries],
                marker="o",
                label=drafter,
            )
        epochs.set(title=file, xlabel="epoch", ylabel="tokens per step")
        epochs.legend(fontsize="small")
        last = [entry for entry in own if entry["drafter"] == "redraft"]
        reliability.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        if last:
            bins = [i for i, count in enumerate(last[-1]["reliability_count"]) if count > 0]
            reliability.plot(
                [last[-1]["reliability_predicted"][i] for i in bins],
                [last[-1]["reliability_observed"][i] for i in bins],
                marker="o",
            )
            error = last[-1]["calibration_error"]
            reliability.set_title(f"redraft, last epoch: calibration error {error:.3f}")
        reliability.set(xlabel="predicted survival", ylabel="observed", xlim=(0, 1), ylim=(0, 1))
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    pyplot.close(figure)
    if png is not None:
        png.write_bytes(picture.getvalue())
    if page is not None:
        page.write_text(_page(results, picture.getvalue()), encoding="utf-8")


def _page(results: list[dict[str, Any]], picture: bytes) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("file", "drafter", "epoch", *COLUMNS))
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(str(entry[name]))}</td>" for name in ("file", "drafter", "epoch"))
        + "".join(f"<td>{entry[name]:.3f}</td>" for name in COLUMNS)
        + "</tr>"
        for entry in results
    )
    data = base64.b64encode(picture).decode()
    return (
        "<!doctype html><meta charset='utf-8'><title>redraft: acceptance</title>"
        "<style>body{font-family:sans-serif}td,th{padding:2px 8px;text-align:left}</style>"
        f"<h1>Acceptance</h1><img alt='plots' src='data:image/png;base64,{data}'>"
        f"<table><tr>{head}</tr>{rows}</table>\n"
    )
