"""Draft servers that change while training runs: publishing and the figures follow the file that names them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from redraft.client import DraftClient, choose
from redraft.errors import InvalidArgument
from redraft.recipe.verl.recorder import EPOCH, OCCURRENCE, Recorder
from redraft.recipe.verl.servers import Servers
from redraft.recipe.verl.watch import DraftingWatch
from redraft.rollout import prompt_key

PROMPTS = range(1, 41)


class Server:
    """A `redraft serve` of its own process; started again it has the same address and history."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, "127.0.0.1:0"
        folder.mkdir()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "redraft.cli", "serve", "--log-level", "warning"]
        command += ["--address", self.address, "--data", str(self.folder)]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=self.folder)
        assert self.popen.stdout is not None
        self.address = self.popen.stdout.readline().split()[-1]

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.communicate()

    def held(self) -> int:
        with DraftClient(self.address) as client:
            return sum(run.responses for run in client.stats().runs)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    started = [Server(tmp_path / name) for name in "abc"]
    yield started
    for server in started:
        server.kill()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_what_is_published_follows_the_file_from_a_dead_server_to_its_successors(
    servers, make_output, tmp_path
) -> None:
    a, b, c = servers
    path = tmp_path / "servers"
    path.write_text(f"{a.address}, {b.address}\n")
    session = {"addresses": [f"file:{path}"], "run": "run", "vocabulary": {"fingerprint": "f"}}
    recorder = Recorder(session)
    followed = Servers(session["addresses"])
    watch = DraftingWatch(followed.now, "run", timeout=5.0)
    following = followed.follow(watch)

    def record(epoch: int) -> None:
        columns = {"uid": "g", "session_id": 0, "global_steps": epoch, EPOCH: epoch, OCCURRENCE: 0}
        for prompt in PROMPTS:
            recorder.record([make_output(prompt_ids=[prompt, 2, 3])], False, columns, (1.0, 2.0))

    def shares(*addresses: str) -> list[int]:
        owners = [choose(addresses, prompt_key([prompt, 2, 3])) for prompt in PROMPTS]
        return [owners.count(address) for address in addresses]

    def published(timeout: float) -> dict[str, int]:
        return asyncio.run(recorder.collect(timeout))["publisher"]

    record(0)
    assert published(30.0)["published"] == len(PROMPTS)
    before = shares(a.address, b.address)
    assert list(watch.stored().values()) == [a.held(), b.held()] == before
    assert all(before)

    b.kill()
    record(1)  # the dead server's share waits, and moves with the list
    path.write_text(f"{a.address}\n{c.address}\n")
    wait_until(lambda: published(1.0)["published"] == 2 * len(PROMPTS))
    told = published(0.0)
    assert (told["refused"], told["dropped"], told["pending"]) == (0, 0, 0)
    # What stood on the dead server's queue was not lost, and the living one kept its own.
    assert a.held() + c.held() == before[0] + len(PROMPTS)
    wait_until(lambda: set(watch.stored()) == {a.address, c.address})

    b.start()
    path.write_text(f"{a.address}\n{b.address}\n{c.address}\n")
    wait_until(lambda: set(watch.stored()) == {a.address, b.address, c.address})
    # Publisher and watch read the file by themselves: only what is published tells that both have.
    epoch = 1
    while b.held() == before[1]:
        epoch += 1
        record(epoch)
        assert published(30.0)["pending"] == 0
    assert sum(server.held() for server in servers) == (epoch + 1) * len(PROMPTS)
    following.close()
    watch.close()


def test_a_list_is_taken_as_it_is_and_a_missing_file_refused(tmp_path) -> None:
    assert Servers(["a:1", "b:2"]).now == ["a:1", "b:2"]
    with pytest.raises(InvalidArgument, match=r"^addresses: cannot read "):
        Servers([f"file:{tmp_path / 'nowhere'}"])
