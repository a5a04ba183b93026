"""vLLM's OpenAI server and a draft server, each in processes of its own, as a user starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redraft.client import DraftClient, Publisher
from redraft.rollout import Rollout

pytestmark = pytest.mark.vllm

PROMPT = [40, 41, 42, 43, 44, 45]


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    deadline = time.monotonic() + 240
    while not (result := condition()):
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.1)
    return result


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, which ends with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def draft_server(tmp_path_factory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    folder = tmp_path_factory.mktemp("draft_server")
    ready, log = folder / "ready", folder / "log"
    command = ["redraft.cli", "serve", "--address", "127.0.0.1:0", "--data", str(folder / "data")]
    with running([*command, "--ready-file", str(ready)], dict(os.environ), log) as process:
        wait_for(ready.exists, process, log)
        yield ready.read_text().strip(), process


@pytest.fixture(scope="module")
def url(tmp_path_factory, engine_environment, tiny_model, draft_server) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("api_server") / "log"
    speculative = {
        "method": "custom_class",
        "model": "redraft.recipe.vllm.proposer.RedraftProposer",
        "num_speculative_tokens": 6,
    }
    # Without tokens kept here, what is drafted again can only have come from the server.
    options = {"run": "http", "report_seconds": 0.1, "history_tokens": 0}
    command = [
        "vllm.entrypoints.openai.api_server",
        *("--model", str(tiny_model), "--served-model-name", "tiny"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--seed", "7"),
        *("--speculative-config", json.dumps(speculative)),
        *("--additional-config", json.dumps({"redraft": options})),
    ]
    environment = {**engine_environment, "REDRAFT_ADDRESSES": draft_server[0]}
    with running(command, environment, log) as process:

        def healthy() -> bool:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5),
            ):
                return True
            return False

        wait_for(healthy, process, log)
        yield f"http://127.0.0.1:{port}"


def complete(url: str, **fields: Any) -> dict[str, Any]:
    """POST to /v1/completions; greedy, token ids included in the answer."""
    body = {"model": "tiny", "prompt": PROMPT, "temperature": 0, "return_token_ids": True, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        data=json.dumps({**body, **fields}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=240) as answer:
        return json.load(answer)["choices"][0]


def accepted_from_history(address: str) -> int:
    for run in DraftClient(address).stats("http").runs:
        return sum(sum(s.accepted) for s in run.acceptance.sources if s.source == "history")
    return 0


def test_published_history_is_drafted_from_and_changes_no_text(url, draft_server):
    address, _ = draft_server
    plain = complete(url, max_tokens=120)
    assert len(plain["token_ids"]) == 120
    publisher = Publisher([address], run="http")
    response = np.array(plain["token_ids"], np.int32)
    publisher.publish([Rollout(np.array(PROMPT, np.int32), response, epoch=0, step=0, sample=0)])
    assert publisher.flush(30)
    publisher.close()
    deadline = time.monotonic() + 60
    while accepted_from_history(address) < 50:
        assert complete(url, max_tokens=120)["text"] == plain["text"]
        assert time.monotonic() < deadline, "no history was drafted from"
        time.sleep(0.5)


def test_an_engine_whose_draft_server_is_killed_goes_on(url, draft_server):
    _, process = draft_server
    expected = complete(url, max_tokens=1500)["token_ids"]
    answers: list[list[int]] = []
    prompts = [PROMPT, [*PROMPT, 7]]
    threads = [
        threading.Thread(
            target=lambda p=p: answers.append(complete(url, prompt=p, max_tokens=1500)["token_ids"])
        )
        for p in prompts
    ]
    for thread in threads:
        thread.start()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for thread in threads:
        thread.join()
    assert [len(answer) for answer in answers] == [1500, 1500]
    assert expected in answers
    assert len(complete(url, prompt=[9, 9, 9], max_tokens=50)["token_ids"]) == 50
