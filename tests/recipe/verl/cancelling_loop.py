"""verl's tool agent loop with requests that are cancelled on their way, for the soak; runs in verl's own workers.

Before a turn is generated, the same request is now and then sent and cancelled, wherever it is by then: waiting for
a change of weights to end, in prefill, while its drafts are verified, or done. That is what an agent framework does
that gives up on a turn, or a trainer that has enough of a group.

Every POLL_SECONDS the engine is asked how its proposer fares; REDRAFT_SOAK_LOG gets a line of JSON with the answer and
with what is under way. Once the file REDRAFT_SOAK_STOP is there, no trajectory begins any more, and those that began
go on to their ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop

CANCELLED = 0.25
"""Share of the turns that a request is cancelled before."""
LONGEST_WAIT = 2.0
"""Most seconds until a request is cancelled; about what a turn takes."""
POLL_SECONDS = 5.0


class Soak:
    """What all agent loops of this worker do, told to the test."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.began: dict[str, float] = {}
        """Turn that is being generated -> when it began, monotonic seconds."""
        self.longest = 0.0
        """Seconds that the longest turn so far took."""
        self.trajectories = 0
        """Trajectories under way."""
        self._stop = Path(os.environ["REDRAFT_SOAK_STOP"])
        self._poll: asyncio.Task[None] | None = None

    @property
    def stopping(self) -> bool:
        return self._stop.exists()

    def watch(self, client: Any) -> None:
        """Begin to ask the engine, once."""
        if self._poll is None:
            self._poll = asyncio.create_task(self._ask_for_ever(client))

    async def _ask_for_ever(self, client: Any) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            waiting = max((time.monotonic() - began for began in self.began.values()), default=0.0)
            line: dict[str, Any] = {
                "time": time.time(),
                "trajectories": self.trajectories,
                "turns": len(self.began),
                "waiting": waiting,
                "longest": self.longest,
                "stopping": self.stopping,
                **self.counts,
            }
            try:
                line |= await self._engine(client, probe=self.stopping and not self.trajectories)
            except Exception as error:
                line["error"] = repr(error)
            with open(os.environ["REDRAFT_SOAK_LOG"], "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    async def _engine(self, client: Any, probe: bool) -> dict[str, Any]:
        """Return levels of the engine's proposer; `probe`: after a step, as it looks around once a step."""
        request_id = uuid4().hex
        server_id, server = await client._acquire_server(request_id)
        try:
            if probe:
                sampling = {"max_tokens": 4, "temperature": 1.0}
                generated = server.generate.remote(
                    prompt_ids=[1, 2], sampling_params=sampling, request_id=request_id
                )
                await asyncio.wait_for(generated, 60)
            told = await asyncio.wait_for(server.redraft_stats.remote(), 60)
        finally:
            client._release_server(server_id, request_id)
        names = ("requests", "groups", "index_bytes", "engine_steps", "unavailable")
        return {"probed": probe, **{name: sum(stats[name] for stats in told) for name in names}}


_SOAK: list[Soak] = []


def soak() -> Soak:
    """Return this worker's."""
    if not _SOAK:
        _SOAK.append(Soak())
    return _SOAK[0]


class CancellingClient:
    """One of verl's clients, with requests that are cancelled before those that count."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def generate(self, request_id: str, **request: Any) -> Any:
        turn = uuid4().hex
        mine = soak()
        mine.began[turn] = time.monotonic()
        try:
            while random.random() < CANCELLED:
                await self._cancel(request_id, request)
            return await self._client.generate(request_id=request_id, **request)
        finally:
            mine.counts["requests_finished"] += 1
            mine.longest = max(mine.longest, time.monotonic() - mine.began.pop(turn))

    async def _cancel(self, request_id: str, request: dict[str, Any]) -> None:
        server_id, server = await self._client._acquire_server(request_id)
        try:
            sampling = {**request["sampling_params"], "max_tokens": 64}
            reference = server.generate.remote(
                prompt_ids=request["prompt_ids"], sampling_params=sampling, request_id=uuid4().hex
            )
            await asyncio.sleep(random.uniform(0, LONGEST_WAIT))
            ray.cancel(reference)
            try:
                await asyncio.wait_for(reference, 120)
                soak().counts["cancelled_too_late"] += 1
            except (ray.exceptions.RayError, asyncio.CancelledError):
                soak().counts["cancelled"] += 1
        finally:
            self._client._release_server(server_id, request_id)


class CancellingAgentLoop(ToolAgentLoop):
    """Named in the file that `rollout.agent.agent_loop_config_path` points to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        soak().watch(self.server_manager)
        self.server_manager = CancellingClient(self.server_manager)

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        while soak().stopping:
            await asyncio.sleep(0.5)
        soak().trajectories += 1
        try:
            return await super().run(*args, **kwargs)
        finally:
            soak().trajectories -= 1
