"""Draft servers, prompts and the fields of verl's objects, for the tests of the verl recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from redraft.rollout import Rollout
from redraft.server import DraftServer, ServerConfig, create_server
from redraft.server.sqlite_history import SqliteHistory


@dataclass
class Output:
    """The fields of verl's AgentLoopOutput that the recipe reads."""

    prompt_ids: list[int] = field(default_factory=lambda: [1, 2, 3])
    response_ids: list[int] = field(default_factory=lambda: [4, 5, 6, 0])
    response_mask: list[int] = field(default_factory=lambda: [1, 1, 1, 1])
    reward_score: float | None = 1.0
    extra_fields: dict[str, Any] = field(default_factory=dict)
    metrics: Any = None


@pytest.fixture
def make_output() -> type[Output]:
    return Output


@pytest.fixture
def draft_server(tmp_path: Path) -> Iterator[tuple[DraftServer, str, Path]]:
    """A server in this process: (server, host:port, its data directory)."""
    data = tmp_path / "data"
    server, port = create_server(ServerConfig(address="127.0.0.1:0", data_directory=data))
    server.start()
    yield server, f"127.0.0.1:{port}", data
    server.stop(0)


@pytest.fixture(scope="session")
def stored() -> Callable[[Path, str], list[Rollout]]:
    """Return a function that reads all responses of a run from a server's data directory."""

    def read(data: Path, run: str) -> list[Rollout]:
        store = SqliteHistory(data, readonly=True)
        try:
            record = store.run(run)
            return [
                Rollout(
                    prompt_token_ids=group.prompt_token_ids,
                    response_token_ids=response.token_ids,
                    epoch=group.epoch,
                    step=group.step,
                    sample=response.sample,
                    reward=response.reward,
                    group_id=group.group_id,
                    validation=group.validation,
                    response_mask=None if response.context is None else ~response.context,
                    weight_versions=response.versions,
                )
                for group in (store.export(record) if record is not None else ())
                for response in group.responses
            ]
        finally:
            store.close()

    return read


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Return `wait_until(condition, seconds)`, which fails the test when the condition does not come true."""

    def wait(condition: Callable[[], Any], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.02)

    return wait
