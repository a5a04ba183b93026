"""Finds damage in a history, and saves what is whole into a new file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from redraft.errors import FailedPrecondition, RedraftError
from redraft.server.lock import DirectoryLock
from redraft.server.sqlite_history import FILE_NAME, SqliteHistory

_BATCH = 256


@dataclass(slots=True)
class CheckReport:
    """What a check found."""

    runs: int = 0
    groups: int = 0
    responses: int = 0
    tokens: int = 0
    damaged: int = 0
    """Records that cannot be read."""
    complaints: list[str] = field(default_factory=list)
    """What the database itself says is wrong with its file."""

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not (self.damaged or self.complaints)


def check(directory: Path) -> CheckReport:
    """Read everything in a data directory; works beside a running server.

    Raises:
        NotFound: there is no history.
        DataLoss: the file is no history at all.
    """
    store = SqliteHistory(directory, readonly=True)
    try:
        report = CheckReport(complaints=store.complaints())
        for run in store.runs():
            report.runs += 1
            try:
                for group in store.export(run):
                    report.groups += 1
                    report.responses += len(group.responses)
                    report.tokens += sum(response.token_ids.size for response in group.responses)
            except RedraftError as error:
                report.complaints.append(f"run {run.name}: {error}")
        report.damaged = store.damaged
        return report
    finally:
        store.close()


def repair(directory: Path) -> Path:
    """Write what can be read into a new history and put it in the old one's place.

    Returns:
        Where the damaged file lies now.

    Raises:
        AlreadyExists: a server holds the directory.
        FailedPrecondition: the disk has no room for the new file.
    """
    lock = DirectoryLock(directory)
    fresh = directory / "repair"
    try:
        if (fresh / FILE_NAME).exists():
            raise FailedPrecondition(f"data_directory: {fresh} is left from another repair; remove it first")
        old, new = SqliteHistory(directory, readonly=True), SqliteHistory(fresh)
        try:
            for run in old.runs():
                into = new.open_run(run.name, run.vocabulary)
                groups = old.export(run)
                try:
                    while batch := list(islice(groups, _BATCH)):
                        new.append(into, batch).result()
                except RedraftError as error:
                    if error.code != "DATA_LOSS":
                        raise
        finally:
            old.close()
            new.close()
        if (fresh / f"{FILE_NAME}-wal").exists():
            raise FailedPrecondition(f"data_directory: {fresh} is in use; stop what uses it and remove it")
        aside = directory / f"{FILE_NAME}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        os.replace(directory / FILE_NAME, aside)
        for suffix in ("-wal", "-shm"):
            if (directory / (FILE_NAME + suffix)).exists():
                os.replace(directory / (FILE_NAME + suffix), f"{aside}{suffix}")
        os.replace(fresh / FILE_NAME, directory / FILE_NAME)
        (fresh / "lock").unlink(missing_ok=True)
        fresh.rmdir()
        return aside
    finally:
        lock.close()
