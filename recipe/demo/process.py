"""Runs redraft's own modules as processes of the demo, with their output in a log file."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

STOP_SECONDS = 30.0
"""How long a process may take to end when it is told to; then it is killed."""


@contextlib.contextmanager
def running(
    module: str, arguments: Sequence[str], log: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module arguments` in a session of its own, and see that it has ended on the way out.

    Args:
        module: absolute module name.
        arguments: its command line.
        log: file that its output goes to; its folder is the process's working folder, so arguments name absolute
            paths.
        environment: of the process.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            cwd=log.parent,  # `-m` looks into the working folder first, and that may be a checkout that is not built
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
