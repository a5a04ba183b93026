"""The worked example with TRL: a real run of GRPOTrainer whose vLLM drafts. TRL is no requirement of redraft."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from redraft.client.api import DraftClient

EXAMPLE = Path(__file__).parents[2] / "examples" / "trl_grpo.py"

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture
def server(tmp_path):
    """Address of a draft server in a process of its own."""
    ready = tmp_path / "ready"
    command = [
        sys.executable,
        "-m",
        "redraft.cli",
        "serve",
        "--address",
        "127.0.0.1:0",
        "--log-level",
        "warning",
    ]
    command += ["--data", str(tmp_path / "data"), "--ready-file", str(ready)]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        while not (ready.exists() and ready.read_text().strip()):
            assert process.poll() is None, "the draft server ended at once"
        yield ready.read_text().strip()
        process.terminate()


@pytest.mark.skipif(
    importlib.util.find_spec("trl") is None or importlib.util.find_spec("vllm") is None,
    reason="TRL or vLLM is not installed; an optional extra: pip install 'redraft[trl]'",
)
def test_acceptance_climbs_over_epochs_and_every_response_is_published(server, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    command = [
        sys.executable,
        str(EXAMPLE),
        "--address",
        server,
        "--run",
        "example",
        "--metrics",
        str(metrics),
    ]
    command += ["--epochs", "3", "--prompts", "4", "--samples", "4", "--tokens", "48"]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "REDRAFT_STRICT": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
    }
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["epoch"] for line in epochs] == [0, 1, 2]
    assert epochs[-1]["tokens_per_step"] > epochs[0]["tokens_per_step"] > 1.0
    with DraftClient(server) as client:
        (run,) = client.stats("example").runs
    assert run.responses == 3 * 4 * 4
