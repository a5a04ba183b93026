"""What the drafter learned of its drafts' acceptance, kept in a folder from one start of an engine to the next."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from logging import Logger
from multiprocessing.util import Finalize
from pathlib import Path

import xxhash

from redraft._core import Drafter
from redraft.calibration import load_calibration, save_calibration
from redraft.errors import InvalidArgument

SAVE_SECONDS = 60.0
"""Between two writes; what is lost when a process is killed. The file has at most 100 KiB, but it is synced."""


class KeptCalibration:
    """Restores what was learned when it is made, and writes it now and then, at `close` and when the process ends.

    Engines of one run share a file: whoever wrote last is gone on from. They draft for the same policy, so what one
    learned holds for all. Nothing here raises: a damaged file, or a folder that can't be written, is a warning.

    Args:
        folder: made if it is missing; empty: nothing is kept.
        run: name of the run, which the file is named after.
        drafter: what learns; may be in use by other threads.
        logger: where warnings go.
        clock: seconds, rising.
    """

    def __init__(
        self,
        folder: str,
        run: str,
        drafter: Drafter,
        logger: Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._due = clock() + SAVE_SECONDS
        self._finalize: Finalize | None = None
        if not folder:
            return
        path = calibration_path(folder, run)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if load_calibration(drafter, path):
                logger.info("redraft: goes on from the calibration in %s", path)
        except (InvalidArgument, OSError) as error:
            logger.warning("redraft: calibration starts anew: %s", error)
        self._keep = _Keep(drafter, path, logger)
        # Runs at exit, also where a multiprocessing child skips what `atexit` knows.
        self._finalize = Finalize(self, self._keep, exitpriority=10)

    def keep(self) -> None:
        """Write, if it is time to; for a thread that no engine step waits for."""
        if self._finalize is not None and self._clock() >= self._due:
            self._due = self._clock() + SAVE_SECONDS
            self._keep()

    def close(self) -> None:
        """Write a last time."""
        if self._finalize is not None:
            self._finalize()


class _Keep:
    """Writes what changed since it was written last; warns once when it can't."""

    def __init__(self, drafter: Drafter, path: Path, logger: Logger) -> None:
        self._drafter, self._path, self._logger = drafter, path, logger
        self._written = drafter.calibration().tobytes()
        self._warned = False

    def __call__(self) -> None:
        learned = self._drafter.calibration().tobytes()
        if learned == self._written:
            return
        try:
            save_calibration(self._drafter, self._path)
            self._written = learned
        except OSError as error:
            if not self._warned:
                self._logger.warning("redraft: calibration can't be kept in %s: %s", self._path, error)
            self._warned = True


def calibration_path(folder: str, run: str) -> Path:
    """Return the file of a run: the letters and digits of its name, and a hash that tells names apart."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", run).strip("._")[:80]
    return Path(folder) / f"{readable}-{xxhash.xxh3_64_hexdigest(run.encode())}.npy"
