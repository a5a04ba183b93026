"""Measures rollouts whose draft server is killed in their middle and brought back, beside plain decoding.

Several engines take turns at prompts of the same kind: plain vLLM, and one that drafts for each budget, which rolls out
once with a server that stays and once with one that is lost. Turns are short and their order changes from round to
round, so whatever else the machine does hits all alike.
"""

from __future__ import annotations

import contextlib
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
import psutil

from redraft.benchmarks.rpc_server import ServerProcess
from redraft.client import Publisher
from redraft.errors import Unavailable
from redraft.recipe.demo.engine import EngineProcess, EngineSettings
from redraft.recipe.demo.pair import Measurement
from redraft.recipe.vllm.outage_prompts import Prompts, draw
from redraft.rollout import Rollout

RUN = "outage"
BATCHES = 4
"""Of a rollout, one after the other: the server dies in the middle of the first and returns in that of the third."""
PLAIN = "plain"

_MOST_SECONDS = 60.0

Batch = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is rolled out."""

    prompts_from: Prompts = "auto"
    """Where prompts come from, see `outage_prompts.draw`."""
    prompts: int = 8
    """Prompts of a batch; the server has history for each."""
    responses: int = 4
    """Siblings of each."""
    prompt_length: int = 16
    """Tokens of a random prompt."""
    max_tokens: int = 192
    """Longest response, in tokens."""
    draft_tokens: int = 4
    """Most draft tokens for a request in one step."""
    temperature: float = 1.0
    rounds: int = 3
    """Rollouts of each kind."""
    auto: bool = True
    """Whether the budget "auto" is rolled out too, by an engine of its own."""

    @property
    def budgets(self) -> dict[str, str]:
        """Prefix of a budget's figures -> the proposer's option `budget`."""
        return {"": "-1", "auto_": "auto"} if self.auto else {"": "-1"}


@dataclass(slots=True)
class _Rollout:
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    answered: int = 0

    def add(self, measured: Measurement, responses: Sequence[Sequence[int]]) -> None:
        self.seconds += measured.seconds
        self.tokens += measured.tokens
        self.drafted += measured.drafted
        self.accepted += measured.accepted
        self.answered += sum(bool(response) for response in responses)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds

    @property
    def cpu_speed(self) -> float:
        return self.tokens / max(self.cpu_seconds, 1e-9)


def measure(model: Path, setting: Setting, report: Callable[[str], None]) -> dict[str, Any]:
    """Roll out with a server that is killed and comes back, with one that stays, and without drafting.

    Args:
        model: Hugging Face folder.
        setting: what is rolled out.
        report: is told what is done now.

    Returns:
        For each of "outage", "healthy", "auto_outage" and "auto_healthy" (the budget "auto", if wanted), as KIND:
        KIND_speed: tokens a second over those of plain decoding in the same round, median of the rounds;
        KIND_speeds: of each round; KIND_cpu_speed: the same for each second of the engine's CPU time, which other
        work on the machine disturbs less; KIND_tokens_per_second: median; KIND_drafted, KIND_accepted: share of
        drafted, and of accepted draft tokens, in the generated ones. plain_tokens_per_second: median.
        requests, answered: of the rollouts with an outage; resumed_seconds: the longest from a server's return until
        it was asked for an index again, None when one was not within a minute; prompts_from: what was chosen.

    Raises:
        InvalidArgument: the folder holds no model.
        FailedPrecondition: an engine does not start; the message names its log.
    """
    count = 2 * BATCHES * setting.prompts
    chosen, prompts = draw(model, setting.prompts_from, setting.rounds * count, setting.prompt_length)
    kinds = [PLAIN, *(prefix + kind for prefix in setting.budgets for kind in ("healthy", "outage"))]
    found: dict[str, list[_Rollout]] = {kind: [] for kind in kinds}
    resumed: list[float | None] = []
    longest = max(map(len, prompts))
    with _Server() as server, _engines(model.resolve(), setting, longest, server) as engines:
        for turn in range(setting.rounds):
            report(f"round {turn + 1} of {setting.rounds}")
            own = prompts[turn * count : (turn + 1) * count]
            batches = [own[i : i + setting.prompts] for i in range(0, count, setting.prompts)]
            # Prompts of its own for each: an index that was fetched once serves without a server.
            lost, kept = batches[::2], batches[1::2]
            seconds = _publish(engines[PLAIN], [*lost, *kept], setting, server.address, turn)
            half = 0.35 * seconds / len(batches)  # in the middle for an engine that drafts well, too
            for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
                engine = engines[kind.removesuffix("healthy").removesuffix("outage")]
                events = {0: (half, server.kill), 2: (half, server.start)} if kind.endswith("outage") else {}
                used = _cpu_seconds(engine)
                rollout = _roll_out(engine, kept if kind.endswith("healthy") else lost, setting, events)
                rollout.cpu_seconds = _cpu_seconds(engine) - used
                found[kind].append(rollout)
                if events:
                    resumed.append(server.seconds_until_asked())
            report("tokens/s: " + ", ".join(f"{kind} {found[kind][-1].speed:,.0f}" for kind in kinds))
    told = [seconds for seconds in resumed if seconds is not None]
    lossy = [rollout for kind in kinds if kind.endswith("outage") for rollout in found[kind]]
    figures: dict[str, Any] = {}
    for kind in kinds[1:]:
        figures |= _figures(kind, found[kind], found[PLAIN])
    return figures | {
        "plain_tokens_per_second": statistics.median(each.speed for each in found[PLAIN]),
        "requests": len(lossy) * BATCHES * setting.prompts * setting.responses,
        "answered": sum(each.answered for each in lossy),
        "resumed_seconds": max(told) if len(told) == len(resumed) else None,
        "prompts_from": chosen,
    }


def _figures(kind: str, rollouts: Sequence[_Rollout], plain: Sequence[_Rollout]) -> dict[str, Any]:
    pairs = list(zip(rollouts, plain, strict=True))
    tokens = sum(each.tokens for each in rollouts)
    speeds = [a.speed / b.speed for a, b in pairs]
    return {
        f"{kind}_speed": statistics.median(speeds),
        f"{kind}_speeds": speeds,
        f"{kind}_cpu_speed": statistics.median(a.cpu_speed / b.cpu_speed for a, b in pairs),
        f"{kind}_tokens_per_second": statistics.median(each.speed for each in rollouts),
        f"{kind}_drafted": sum(each.drafted for each in rollouts) / max(tokens, 1),
        f"{kind}_accepted": sum(each.accepted for each in rollouts) / max(tokens, 1),
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
def _engines(
    model: Path, setting: Setting, prompt_length: int, server: _Server
) -> Iterator[dict[str, EngineProcess]]:
    """Start an engine for each budget, by its prefix, and the plain one; warm them up; end them."""
    common: dict[str, Any] = {
        "model": str(model),
        "max_model_len": prompt_length + setting.max_tokens + setting.draft_tokens + 8,
        "max_num_seqs": setting.prompts * setting.responses,
    }
    environment = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # where it would put all engines on the same cores
        "VLLM_NO_USAGE_STATS": "1",
    } | os.environ
    drafting = EngineSettings(**common, draft_tokens=setting.draft_tokens, address=server.address, run=RUN)
    with contextlib.ExitStack() as stack:
        engines: dict[str, EngineProcess] = {}
        for name, budget in {PLAIN: "-1", **setting.budgets}.items():
            settings = EngineSettings(**common) if name == PLAIN else drafting
            log = server.folder / f"{name or 'drafting'}.log"
            engines[name] = EngineProcess(settings, log, environment | {"REDRAFT_BUDGET": budget})
            stack.callback(engines[name].close)
        for engine in engines.values():
            engine.ready()
            engine.respond([[i % 50 + 3] * 16 for i in range(8)], temperature=1.0, max_tokens=16)
        yield engines


def _cpu_seconds(engine: EngineProcess) -> float:
    """Return the CPU time of an engine's processes so far."""
    total, root = 0.0, psutil.Process(engine.pid)
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _publish(
    engine: EngineProcess, batches: Sequence[Batch], setting: Setting, address: str, epoch: int
) -> float:
    """Publish what the policy writes to the prompts, as an earlier epoch did; return how long it took to write."""
    publisher = Publisher([address], run=RUN)
    seconds = 0.0
    try:
        for batch in batches:
            prompts = [prompt for prompt in batch for _ in range(setting.responses)]
            measured, responses = engine.respond(
                prompts, temperature=setting.temperature, max_tokens=setting.max_tokens
            )
            seconds += measured.seconds
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
    return seconds


def _roll_out(
    engine: EngineProcess,
    batches: Sequence[Batch],
    setting: Setting,
    events: dict[int, tuple[float, Callable[[], None]]],
) -> _Rollout:
    """Roll out batch after batch; `events`: what to do that many seconds after the start of a batch."""
    total = _Rollout()
    for number, batch in enumerate(batches):
        delay, act = events.get(number, (0.0, None))
        timer = threading.Timer(delay, act) if act is not None else None
        if timer is not None:
            timer.start()
        prompts = [prompt for prompt in batch for _ in range(setting.responses)]
        total.add(*engine.respond(prompts, temperature=setting.temperature, max_tokens=setting.max_tokens))
        if timer is not None:
            timer.join()
    return total
