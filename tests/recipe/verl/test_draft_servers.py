from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("ray")

from redraft.client import DraftClient
from redraft.errors import Unavailable
from redraft.recipe.verl.draft_servers import ServerProcess, serve_command
from redraft.recipe.verl.options import ServerOptions


def answers(address: str) -> bool:
    with DraftClient(address, timeout=1.0) as client:
        try:
            client.stats()
        except Unavailable:
            return False
    return True


def test_options_become_arguments_of_the_server() -> None:
    options = ServerOptions(window_epochs=3, window_tokens=1000, insecure=True, arguments=("--grace", "1"))
    command = serve_command("10.0.0.1:0", "/data", "/ready", options)
    text = " ".join(command)
    assert "--address 10.0.0.1:0 --data /data --ready-file /ready" in text
    assert "--window-epochs 3 --window-tokens 1000 --insecure --grace 1" in text


def test_a_killed_server_comes_back_on_its_port_as_often_as_allowed(wait_until) -> None:
    process = ServerProcess("127.0.0.1", ServerOptions(restarts=1))
    address, first = process.address(), process.pid()
    assert answers(address)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: process.pid() != first and answers(address))
    assert process.address() == address
    os.kill(process.pid(), signal.SIGKILL)
    wait_until(lambda: not answers(address))
    process.stop()


def test_stopping_ends_the_server_and_removes_a_temporary_history_only(tmp_path: Path) -> None:
    process = ServerProcess("127.0.0.1", ServerOptions(data_dir=str(tmp_path / "kept")))
    pid = process.pid()
    process.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (tmp_path / "kept").is_dir()


def test_a_server_that_cannot_start_says_so() -> None:
    with pytest.raises(Unavailable, match=r"redraft\.server: `redraft serve` ended at once"):
        ServerProcess("127.0.0.1", ServerOptions(arguments=("--no-such-option",)))
