"""Many writers, one transaction: what arrives while the disk syncs is committed together by the next sync."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from redraft.errors import DataLoss, RedraftError, ResourceExhausted, Unavailable
from redraft.server.logs import event

_LOG = logging.getLogger("redraft.server")

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    future: Future[Any]
    nbytes: int


class GroupCommit:
    """Runs jobs on one connection, in the order of their arrival, as few transactions as the disk allows.

    A job's future gets its result after the transaction is durable. A job that raises is undone alone; when the
    database itself fails, the whole transaction is undone and every job in it fails.

    Args:
        connection: in autocommit mode, used by nobody else.
        queue_bytes: bytes of jobs that may wait; `submit` blocks beyond it, which is the server's back-pressure.
    """

    def __init__(self, connection: sqlite3.Connection, *, queue_bytes: int = 256 << 20) -> None:
        self._connection = connection
        self._queue_bytes = queue_bytes
        self._jobs: deque[_Job] = deque()
        self._waiting_bytes = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="redraft-history", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], T], *, nbytes: int = 0) -> Future[T]:
        """Queue a job; its future's result is durable.

        Args:
            work: runs inside the transaction, on the writer's thread.
            nbytes: memory that the job holds while it waits.

        Raises:
            Unavailable: `close` was called.
        """
        job = _Job(work, Future(), nbytes)
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting_bytes <= self._queue_bytes)
            if self._closing:
                raise Unavailable("history: the server is shutting down")
            self._jobs.append(job)
            self._waiting_bytes += nbytes
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """Finish the jobs that wait, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return
                batch, self._jobs = list(self._jobs), deque()
                self._waiting_bytes = 0
                self._changed.notify_all()
            self._commit(batch)

    def _commit(self, batch: list[_Job]) -> None:
        done: list[tuple[_Job, Any, BaseException | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in batch:
                done.append((job, *self._run(job)))
            self._connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            failure = translate(error) if isinstance(error, sqlite3.Error) else error
            event(_LOG, logging.ERROR, "writes failed", writes=len(batch), reason=failure)
            for job in batch:
                job.future.set_exception(failure)
            return
        for job, result, refusal in done:
            if refusal is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(refusal)

    def _run(self, job: _Job) -> tuple[Any, BaseException | None]:
        self._connection.execute("SAVEPOINT job")
        try:
            result = job.work(self._connection)
        except sqlite3.Error:
            raise
        except Exception as error:
            self._connection.execute("ROLLBACK TO job")
            self._connection.execute("RELEASE job")
            return None, error
        self._connection.execute("RELEASE job")
        return result, None


def translate(error: sqlite3.Error) -> RedraftError:
    """Return redraft's exception for SQLite's."""
    text = str(error)
    if "full" in text:
        return ResourceExhausted(f"history: {text}; free some space, nothing of this write was stored")
    if "malformed" in text or "not a database" in text:
        return DataLoss(f"history: {text}; restore a backup or choose another directory with --data")
    return Unavailable(f"history: {text}")
