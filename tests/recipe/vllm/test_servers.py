"""Real engines and a real draft server: killed and brought back, and two engines that serve one group."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from redraft.server import ServerConfig, create_server

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm

ENGINES = Path(__file__).parent / "engines"
PROMPTS = [[5, 6, 7, 8], [15, 16, 17], [25, 26, 27, 28, 29], [35, 36, 37]]


def test_a_server_that_is_killed_and_comes_back_costs_drafts_only(run_engine, tiny_model, tmp_path):
    settings = {"model": str(tiny_model), "prompts": PROMPTS, "data": str(tmp_path / "data")}
    result = run_engine(ENGINES / "outage.py", settings)
    before, _, after = result["history"]
    assert before >= 50
    assert after >= 50  # drafting from history resumed by itself, for a prompt never asked for before
    assert result["unavailable"] > 0
    for name, tokens in result["responses"].items():
        assert tokens == result["plain"][int(name.split()[1])], name
    assert {"killed 0", "killed 1", "killed 2"} <= set(result["responses"])


def test_an_engine_drafts_from_a_sibling_on_another_engine(run_engine, tiny_model, tmp_path):
    server, port = create_server(ServerConfig(address="127.0.0.1:0", data_directory=tmp_path / "data"))
    server.start()
    settings = {
        "model": str(tiny_model),
        "prompt": PROMPTS[0],
        "address": f"127.0.0.1:{port}",
        "half": str(tmp_path / "half"),
        "done": str(tmp_path / "done"),
    }
    with ThreadPoolExecutor() as pool:
        both = [
            pool.submit(run_engine, ENGINES / "replica.py", {**settings, "first": first})
            for first in (True, False)
        ]
        first, second = (each.result() for each in both)
    server.stop(0)
    assert first["response"] == second["response"]
    assert len(second["response"]) == 200
    assert second["relayed"] > 100
    assert first["relayed"] > 0
    # Half of its text stood there to be drafted from.
    assert second["steps"] < first["steps"]
