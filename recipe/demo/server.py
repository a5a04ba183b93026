"""The demo's draft server: `redraft serve` as a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from redraft.errors import FailedPrecondition
from redraft.recipe.demo.process import running
from redraft.rollout import Rollout


@contextlib.contextmanager
def draft_server(data: Path, log: Path, environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """Run a server on a free port of this machine; yield its address and process id; stop it at the end.

    Args:
        data: directory of its history.
        log: file that its output goes to.
        environment: of the process.

    Raises:
        FailedPrecondition: it does not come up; the message names its log.
    """
    ready = log.with_suffix(".ready")
    ready.unlink(missing_ok=True)
    arguments = ["serve", "--address", "127.0.0.1:0", "--data", str(data), "--ready-file", str(ready)]
    try:
        with running("redraft.cli", arguments, log, environment) as process:
            yield _address(ready, process, log), process.pid
    finally:
        ready.unlink(missing_ok=True)


def _address(ready: Path, process: subprocess.Popen[bytes], log: Path, timeout: float = 60.0) -> str:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        if ready.exists() and (address := ready.read_text().strip()):
            return address
        time.sleep(0.05)
    raise FailedPrecondition(f"draft server: it did not come up; see {log}")


def responses(data: Path, run: str) -> list[Rollout]:
    """Return all training responses of a run in a server's directory; the server may be running on it.

    Raises:
        NotFound: there is no such run.
    """
    # The data directory belongs to the server; it is read by the server's own means.
    from redraft.server.sqlite_history import SqliteHistory

    store = SqliteHistory(data, readonly=True)
    try:
        record = store.run(run)
        if record is None:
            return []
        return [
            Rollout(
                prompt_token_ids=group.prompt_token_ids,
                response_token_ids=response.token_ids,
                epoch=group.epoch,
                step=group.step,
                sample=response.sample,
                reward=response.reward,
                group_id=group.group_id,
            )
            for group in store.export(record)
            if not group.validation
            for response in group.responses
        ]
    finally:
        store.close()
