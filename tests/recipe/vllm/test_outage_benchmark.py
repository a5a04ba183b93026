"""`redraft bench outage` kills its server and brings it back, under hollow engines and under real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from redraft.client import DraftSource
from redraft.errors import InvalidArgument
from redraft.recipe.demo.pair import Measurement
from redraft.recipe.vllm import outage, outage_prompts

TINY = (
    *("--prompts-from", "random", "--prompts", "2", "--responses", "2", "--max-tokens", "32"),
    *("--rounds", "1", "--json"),
)


class HollowEngine:
    """Answers at once; one that drafts asks the real server for every prompt, and waits a little for it."""

    def __init__(self, settings, log, environment) -> None:
        self.source, self.pid = None, os.getpid()
        if settings.draft_tokens:
            self.source = DraftSource([settings.address], run=settings.run, refresh_seconds=0.0)

    def ready(self) -> None:
        pass

    def respond(self, prompts, *, temperature, max_tokens):
        started = time.perf_counter()
        if self.source is not None:
            for prompt in prompts:
                self.source.prefetch(np.array(prompt, np.int32))
            self.source.wait(2.0)
        time.sleep(0.2)
        responses = [[7, 8, 9] for _ in prompts]
        return Measurement(time.perf_counter() - started, 3 * len(prompts), 0, 0, 0), responses

    def close(self) -> None:
        if self.source is not None:
            self.source.close()


def test_the_server_dies_and_returns_in_the_middle_of_a_rollout(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 1000}')
    monkeypatch.setattr(outage, "EngineProcess", HollowEngine)
    said: list[str] = []
    figures = outage.measure(tmp_path, outage.Setting(prompts=2, responses=2, rounds=1), said.append)
    assert said[0] == "round 1 of 1"
    assert said[1].startswith("tokens/s: plain ")
    assert figures["prompts_from"] == "random"
    # Both budgets lose their server.
    assert figures["answered"] == figures["requests"] == 2 * outage.BATCHES * 2 * 2
    assert figures["resumed_seconds"] > 0
    # The hollow engine waits for a server that is gone, as no real one does: that is what the figures would show.
    assert figures["outage_speed"] < figures["healthy_speed"]
    assert figures["auto_outage_speed"] < figures["auto_healthy_speed"]


def test_prompts_are_different_and_the_same_every_time(tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 1000}')
    chosen, prompts = outage_prompts.draw(tmp_path, "auto", 20, 16)
    assert chosen == "random"
    assert len(set(map(tuple, prompts))) == 20
    assert {len(prompt) for prompt in prompts} == {16}
    assert outage_prompts.draw(tmp_path, "random", 20, 16)[1] == prompts


def test_questions_need_a_tokenizer_with_a_chat_template(tmp_path):
    (tmp_path / "config.json").write_text('{"vocab_size": 1000}')
    with pytest.raises(InvalidArgument, match=r"^model: .* no tokenizer with a chat template"):
        outage_prompts.draw(tmp_path, "tasks", 20, 16)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InvalidArgument, match=r"^model: .* holds no config\.json"):
        outage.measure(tmp_path, outage.Setting(), print)


@pytest.mark.vllm
@pytest.mark.long
def test_rollouts_outlive_the_server_and_are_compared_with_plain_decoding(
    tiny_model, engine_environment, tmp_path
):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "redraft.cli",
            "bench",
            "outage",
            "--model",
            str(tiny_model),
            *TINY,
            "--no-auto",
        ],
        env=engine_environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(done.stdout)
    assert figures["answered"] == figures["requests"] == outage.BATCHES * 2 * 2
    assert figures["resumed_seconds"] > 0  # the server that came back was asked again
    assert figures["outage_tokens_per_second"] > 0
    assert figures["plain_tokens_per_second"] > 0
