"""Measures a rollout whose draft server is killed in its middle and brought back, beside plain decoding.

Two engines take turns at the same prompts: one drafts, from history and siblings, and loses its server; the other is
vLLM without any speculation. Whatever else the machine does hits both alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from redraft.benchmarks.rpc_server import ServerProcess
from redraft.client import Publisher
from redraft.errors import InvalidArgument, Unavailable
from redraft.recipe.demo.engine import EngineProcess, EngineSettings
from redraft.recipe.demo.pair import Measurement
from redraft.rollout import Rollout

RUN = "outage"
BATCHES = 4
"""Of a rollout, one after the other: the server dies in the middle of the first and returns in that of the third."""

_MOST_SECONDS = 60.0

Batch = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is rolled out."""

    prompts: int = 8
    """Prompts of a batch; the server has history for each."""
    responses: int = 4
    """Siblings of each."""
    prompt_length: int = 16
    """Tokens."""
    max_tokens: int = 192
    """Longest response, in tokens."""
    draft_tokens: int = 4
    """Most draft tokens for a request in one step."""
    temperature: float = 1.0
    rounds: int = 3
    """Rollouts of each kind."""


@dataclass(slots=True)
class _Rollout:
    seconds: float = 0.0
    tokens: int = 0
    answered: int = 0

    def add(self, measured: Measurement, responses: Sequence[Sequence[int]]) -> None:
        self.seconds += measured.seconds
        self.tokens += measured.tokens
        self.answered += sum(bool(response) for response in responses)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


def measure(model: Path, setting: Setting, report: Callable[[str], None]) -> dict[str, Any]:
    """Roll out with a server that is killed and comes back, with one that stays, and without drafting.

    Args:
        model: Hugging Face folder.
        setting: what is rolled out.
        report: is told what is done now.

    Returns:
        outage_speed, healthy_speed: tokens a second over those of plain decoding, median of the rounds;
        outage_speeds: of each round; outage_tokens_per_second, healthy_tokens_per_second, plain_tokens_per_second:
        medians; requests, answered: of the rollouts with an outage; resumed_seconds: the longest from a server's
        return until it was asked for an index again, None when one was not within a minute.

    Raises:
        InvalidArgument: the folder holds no model.
        FailedPrecondition: an engine does not start; the message names its log.
    """
    try:
        vocabulary = int(json.loads((model / "config.json").read_text())["vocab_size"])
    except (OSError, KeyError, ValueError):
        raise InvalidArgument(f"model: {model} holds no config.json with a vocab_size") from None
    random = np.random.default_rng(0)
    outage, healthy, plain = [], [], []
    resumed: list[float | None] = []
    with _Server() as server, _engines(model.resolve(), setting, server) as (drafting, decoding):
        for turn in range(setting.rounds):
            report(f"round {turn + 1} of {setting.rounds}")
            shape = (2, BATCHES, setting.prompts, setting.prompt_length)
            # Prompts of its own for each: an index that was fetched once serves without a server.
            lost, kept = random.integers(3, vocabulary, shape).tolist()
            _publish(decoding, [*lost, *kept], setting, server.address, turn)
            healthy.append(_roll_out(drafting, kept, setting))
            if turn % 2:  # whoever goes second finds warmer caches
                plain.append(_roll_out(decoding, lost, setting))
            half = healthy[-1].seconds / BATCHES / 2
            outage.append(
                _roll_out(drafting, lost, setting, {0: (half, server.kill), 2: (half, server.start)})
            )
            resumed.append(server.seconds_until_asked())
            if not turn % 2:
                plain.append(_roll_out(decoding, lost, setting))
    found = [seconds for seconds in resumed if seconds is not None]
    speeds = [a.speed / b.speed for a, b in zip(outage, plain, strict=True)]
    return {
        "outage_speed": statistics.median(speeds),
        "healthy_speed": statistics.median(a.speed / b.speed for a, b in zip(healthy, plain, strict=True)),
        "outage_speeds": speeds,
        "outage_tokens_per_second": statistics.median(each.speed for each in outage),
        "healthy_tokens_per_second": statistics.median(each.speed for each in healthy),
        "plain_tokens_per_second": statistics.median(each.speed for each in plain),
        "requests": setting.rounds * BATCHES * setting.prompts * setting.responses,
        "answered": sum(each.answered for each in outage),
        "resumed_seconds": max(found) if len(found) == setting.rounds else None,
    }


class _Server:
    """A draft server that can be killed and started again on its port and history."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="redraft-outage-")
        self.folder = Path(self._folder.name)
        self._data = self.folder / "data"
        self._data.mkdir()
        self._process = ServerProcess(self._data)
        self.address = self._process.address
        self._returned = time.monotonic()

    def kill(self) -> None:
        self._process.kill()

    def start(self) -> None:
        for _ in range(20):  # the port may still be in use
            with contextlib.suppress(Unavailable):
                self._process = ServerProcess(self._data, address=self.address)
                self._returned = time.monotonic()
                return
        raise Unavailable(f"server: it did not come back on {self.address}")

    def seconds_until_asked(self) -> float | None:
        """Wait until an index was asked for since the return; return how long after it that was noticed."""
        while (waited := time.monotonic() - self._returned) < _MOST_SECONDS:
            samples = self._process.metrics()
            if sum(v for name, v in samples.items() if name.startswith("redraft_index_requests_total")):
                return waited
            time.sleep(0.1)
        return None

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(None, None, None)
        self._folder.cleanup()


@contextlib.contextmanager
def _engines(model: Path, setting: Setting, server: _Server) -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """Start the engine with drafting and the plain one, warm both up, end both."""
    common: dict[str, Any] = {
        "model": str(model),
        "max_model_len": setting.prompt_length + setting.max_tokens + setting.draft_tokens + 8,
        "max_num_seqs": setting.prompts * setting.responses,
    }
    environment = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # where it would put both engines on the same cores
        "VLLM_NO_USAGE_STATS": "1",
    } | os.environ
    drafting = EngineSettings(**common, draft_tokens=setting.draft_tokens, address=server.address, run=RUN)
    with contextlib.ExitStack() as stack:
        engines = []
        for name, settings in (("drafting", drafting), ("plain", EngineSettings(**common))):
            engines.append(EngineProcess(settings, server.folder / f"{name}.log", environment))
            stack.callback(engines[-1].close)
        for engine in engines:
            engine.ready()
            engine.respond([[i % 50 + 3] * 16 for i in range(8)], temperature=1.0, max_tokens=16)
        yield engines[0], engines[1]


def _publish(
    engine: EngineProcess, batches: Sequence[Batch], setting: Setting, address: str, epoch: int
) -> None:
    """Publish what the policy writes to the prompts, as an earlier epoch did."""
    publisher = Publisher([address], run=RUN)
    try:
        for batch in batches:
            prompts = [prompt for prompt in batch for _ in range(setting.responses)]
            _, responses = engine.respond(
                prompts, temperature=setting.temperature, max_tokens=setting.max_tokens
            )
            publisher.publish(
                [
                    Rollout(np.array(prompt, np.int32), np.array(response, np.int32), epoch, epoch, i)
                    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
                ]
            )
        if not publisher.flush(60):
            raise Unavailable(f"server: {address} did not take the history")
    finally:
        publisher.close()


def _roll_out(
    engine: EngineProcess,
    batches: Sequence[Batch],
    setting: Setting,
    events: dict[int, tuple[float, Callable[[], None]]] | None = None,
) -> _Rollout:
    """Roll out batch after batch; `events`: what to do that many seconds after the start of a batch."""
    total = _Rollout()
    for number, batch in enumerate(batches):
        delay, act = (events or {}).get(number, (0.0, None))
        timer = threading.Timer(delay, act) if act is not None else None
        if timer is not None:
            timer.start()
        prompts = [prompt for prompt in batch for _ in range(setting.responses)]
        total.add(*engine.respond(prompts, temperature=setting.temperature, max_tokens=setting.max_tokens))
        if timer is not None:
            timer.join()
    return total
