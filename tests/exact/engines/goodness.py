"""Does a sample come from a distribution that is known exactly? Total variation and chi-square."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Float64Array = npt.NDArray[np.float64]
REPLICATES = 200
"""Plain samples that tell what total variation noise alone makes."""


def judge(observed: npt.NDArray[np.int64], probabilities: Float64Array) -> dict[str, float]:
    """Compare counts with exact probabilities.

    Args:
        observed: int64, shape (cells,), how often each outcome was seen.
        probabilities: float64, shape (cells,), sums to 1.

    Returns:
        `draws`; `tv`: total variation between frequencies and probabilities, half the sum of absolute
        differences; `noise`, `noise_deviation`: mean and standard deviation of the same for plain samples of this
        size from `probabilities` (numpy's multinomial, its own seed); `p_value`: Pearson's chi-square, outcomes
        of an expectation below 5 taken together, 0 when something impossible was seen; `cells` of that test.
    """
    draws = int(observed.sum())
    generator = np.random.default_rng(12345)
    plain = generator.multinomial(draws, probabilities / probabilities.sum(), size=REPLICATES)
    distances = np.abs(plain / draws - probabilities).sum(axis=1) / 2
    p_value, cells = chi_square(observed, probabilities)
    return {
        "draws": draws,
        "tv": float(np.abs(observed / draws - probabilities).sum() / 2),
        "noise": float(distances.mean()),
        "noise_deviation": float(distances.std()),
        "p_value": p_value,
        "cells": cells,
    }


def chi_square(observed: npt.NDArray[np.int64], probabilities: Float64Array) -> tuple[float, int]:
    """Return the p-value and the number of cells of Pearson's test; see `judge`."""
    if observed[probabilities == 0].any():
        return 0.0, 0
    expected = probabilities * observed.sum()
    common = expected >= 5
    rare = ~common & (expected > 0)
    seen, wanted = observed[common].astype(float), expected[common]
    if rare.any() and expected[rare].sum() > 0:
        seen, wanted = np.append(seen, observed[rare].sum()), np.append(wanted, expected[rare].sum())
    if len(wanted) == 1:
        return 1.0, 1
    statistic = float(((seen - wanted) ** 2 / wanted).sum())
    degrees = torch.tensor((len(wanted) - 1) / 2.0, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, torch.tensor(statistic / 2, dtype=torch.float64))), len(
        wanted
    )


def record(suite: str, name: str, case: dict[str, Any]) -> None:
    """Keep a case as a line of JSON in the file `EXACT_RECORD`, if it is set; `table.py` makes a table of them."""
    if path := os.environ.get("EXACT_RECORD"):
        with Path(path).open("a") as file:
            file.write(json.dumps({"suite": suite, "case": name, **case}) + "\n")
    print(name, case, flush=True)  # of use when a long run is cut off
