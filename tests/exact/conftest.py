"""How long the exactness suite runs: short as part of `make test`, long as `make test-exact`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def draws() -> int:
    """Tokens sampled for each case, at least: `EXACT_DRAWS`, or few."""
    return int(os.environ.get("EXACT_DRAWS", 16_384))


@pytest.fixture(scope="session")
def record() -> Callable[[str, dict[str, Any]], None]:
    """Return `record(suite, cases)`: keep a line of JSON for each case in the file `EXACT_RECORD`, if it is set.

    `tests/exact/table.py` makes the table of `doc/exactness.md` of it.
    """
    path = os.environ.get("EXACT_RECORD")

    def record(suite: str, cases: dict[str, Any]) -> None:
        if path:
            with Path(path).open("a") as file:
                for name, case in cases.items():
                    file.write(json.dumps({"suite": suite, "case": name, **case}) + "\n")

    return record
