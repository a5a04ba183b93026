"""How long the exactness suite runs: short as part of `make test`, long as `make test-exact`."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def draws() -> int:
    """Tokens sampled for each case, at least: `EXACT_DRAWS`, or few."""
    return int(os.environ.get("EXACT_DRAWS", 16_384))
