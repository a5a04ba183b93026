"""Our classes against verl's own, imported and run with stand-ins beside them (`seams.py`): no engine, no cluster."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.verl, pytest.mark.vllm]

SCRIPT = Path(__file__).with_name("seams.py")
MODULES = "redraft.recipe.cpu.platform,redraft.recipe.verl.register_server"
LAUNCH = """
import runpy, sys
from redraft.recipe.cpu.environment import activate
activate()  # before anything imports verl
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def checks() -> list[str]:
    """Return the names of the script's checks, without importing verl."""
    module = ast.parse(SCRIPT.read_text())
    (names,) = (n.value for n in module.body if isinstance(n, ast.AnnAssign) and n.target.id == "CHECKS")
    return [name.id for name in names.elts]


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "VERL_USE_EXTERNAL_MODULES": MODULES},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("check", checks())
def test_seam(check: str, results: dict[str, str]) -> None:
    assert results[check] == "ok", results[check]
