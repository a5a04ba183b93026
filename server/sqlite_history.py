"""The history in one SQLite file in WAL mode: readers never wait for the writer, and a commit survives kill -9."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from redraft.errors import DataLoss, FailedPrecondition, NotFound, RedraftError, Unavailable
from redraft.server import codec, schema
from redraft.server.config import RetentionConfig
from redraft.server.group_commit import GroupCommit, translate
from redraft.server.history import (
    Appended,
    EpochSummary,
    GroupRecord,
    Int32Array,
    PromptRecord,
    RunRecord,
    RunSummary,
    Scope,
)
from redraft.server.lock import DirectoryLock
from redraft.server.logs import event
from redraft.server.retention import Retention, forget
from redraft.server.sqlite_writes import GroupWriter, open_run, same_prompt
from redraft.vocabulary import Vocabulary

_LOG = logging.getLogger("redraft.server")
FILE_NAME = "history.sqlite"

T = TypeVar("T")


class SqliteHistory:
    """A `History` in `<directory>/history.sqlite`.

    Args:
        directory: the data directory; created when it does not exist.
        retention: what is kept; None = everything.
        readonly: read beside a server that holds the directory; every write then raises FailedPrecondition.

    Raises:
        AlreadyExists: another process holds the directory.
        NotFound: there is no history to read.
        FailedPrecondition: the directory cannot be written, or a newer redraft wrote it.
        DataLoss: the file is not a history.
    """

    def __init__(
        self, directory: Path, *, readonly: bool = False, retention: RetentionConfig | None = None
    ) -> None:
        self._path = directory / FILE_NAME
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._closed = False
        self.damaged = 0
        self._lock: DirectoryLock | None = None
        self._commit: GroupCommit | None = None
        self._revision = 0
        self._group_writer = GroupWriter(self._next_revision, self._skip)
        if readonly:
            if not self._path.is_file():
                raise NotFound(f"data_directory: there is no history in {directory}")
            schema.check_version(self._one("PRAGMA user_version")[0])
            return
        self._lock = DirectoryLock(directory)
        try:
            self._writer = self._open_writer()
        except sqlite3.Error as error:
            self._lock.close()
            raise translate(error) from None
        except BaseException:
            self._lock.close()
            raise
        limited = retention is not None and not retention.unlimited
        self._retention = Retention(retention, self._next_revision) if retention and limited else None
        self._commit = GroupCommit(self._writer)

    def _open_writer(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            connection.execute(
                "PRAGMA page_size = 16384"
            )  # groups are tens of kilobytes; set before creation
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # what is acknowledged survives a power cut
            connection.execute("PRAGMA journal_size_limit = 67108864")
            schema.migrate(connection)
            (self._revision,) = connection.execute(
                "SELECT value FROM meta WHERE name = 'revision'"
            ).fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    # Reading.

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        total = 0
        for path in (self._path, self._path.with_name(FILE_NAME + "-wal")):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def run(self, name: str) -> RunRecord | None:
        """Return the run of that name."""
        return next(iter(self._runs("WHERE name = ?", name)), None)

    def runs(self) -> list[RunRecord]:
        """Return all runs, by name."""
        return self._runs("ORDER BY name")

    def prompt(self, run: RunRecord, key: bytes, token_ids: Int32Array) -> PromptRecord | None:
        """Return the prompt with that key and exactly these tokens."""
        rows = self._rows(
            "SELECT prompt_id, revision, token_ids FROM prompts WHERE run_id = ? AND key = ?", run.run_id, key
        )
        for prompt_id, revision, stored in rows:
            try:
                if same_prompt(stored, token_ids):
                    return PromptRecord(prompt_id, revision)
            except DataLoss as error:
                self._skip(f"prompt {prompt_id}", error)
        return None

    def groups(self, prompt: PromptRecord) -> Iterator[GroupRecord]:
        """Yield a prompt's groups, newest (epoch, then step) first, skipping damaged ones."""
        return self._groups(prompt.prompt_id, b"", np.empty(0, np.int32), "DESC")

    def export(self, run: RunRecord) -> Iterator[GroupRecord]:
        """Yield all groups of a run with their prompts, oldest first for each prompt, skipping damaged ones."""
        for (prompt_id,) in self._rows(
            "SELECT prompt_id FROM prompts WHERE run_id = ? ORDER BY 1", run.run_id
        ):
            try:
                key, stored = self._one("SELECT key, token_ids FROM prompts WHERE prompt_id = ?", prompt_id)
                token_ids = codec.decode_prompt(stored)
            except RedraftError as error:
                self._skip(f"prompt {prompt_id}", error)
                continue
            yield from self._groups(prompt_id, key, token_ids, "ASC")

    def summary(self, run: RunRecord) -> RunSummary:
        """Return what the store holds of a run."""
        (prompts,) = self._one("SELECT COUNT(*) FROM prompts WHERE run_id = ?", run.run_id)
        rows = self._rows(
            "SELECT epoch, SUM(responses), SUM(tokens), SUM(rewarded), SUM(reward_sum) FROM groups "
            "WHERE run_id = ? GROUP BY epoch ORDER BY epoch",
            run.run_id,
        )
        return RunSummary(prompts, [EpochSummary(*row) for row in rows])

    def complaints(self) -> list[str]:
        """Return what SQLite's integrity check finds wrong with the file; empty when it is whole."""
        rows = self._rows("PRAGMA integrity_check(20)")
        return [text for (text,) in rows if text != "ok"]

    # Writing.

    def open_run(self, name: str, vocabulary: Vocabulary) -> RunRecord:
        """Return the run of that name, creating it or adding to what is known of its vocabulary."""
        known = self.run(name)
        if known is not None:
            known.check_vocabulary(vocabulary)
            if known.vocabulary.merged(vocabulary) == known.vocabulary:
                return known
        run = self._submit(lambda connection: open_run(connection, name, vocabulary)).result()
        event(_LOG, logging.INFO, "run opened", run=name, vocabulary_size=run.vocabulary.size)
        return run

    def append(self, run: RunRecord, groups: Sequence[GroupRecord]) -> Future[list[Appended]]:
        """Store groups; the future's result, one item a group, is there once they are durable."""
        encoded = [
            (codec.encode_prompt(group.prompt_token_ids), codec.encode(group.responses)) for group in groups
        ]
        tokens = sum(response.token_ids.size for group in groups for response in group.responses)

        def work(connection: sqlite3.Connection) -> list[Appended]:
            if connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run.run_id,)).fetchone() is None:
                raise NotFound(f"run: {run.name!r} was forgotten meanwhile; publish again")
            results = [
                self._group_writer.put(connection, run, group, prompt, payload)
                for group, (prompt, payload) in zip(groups, encoded, strict=True)
            ]
            self._retain(connection, run, groups, tokens)
            return results

        return self._submit(work, nbytes=4 * tokens)

    def forget(self, run: RunRecord, scope: Scope) -> tuple[int, int]:
        """Remove part of a run; return the numbers of responses and tokens removed, once that is durable."""

        def work(connection: sqlite3.Connection) -> tuple[int, int]:
            return forget(connection, run, scope, self._next_revision)

        return self._submit(work).result()

    def close(self) -> None:
        """Finish what was accepted and close; later calls raise Unavailable."""
        if self._closed:
            return
        if self._commit is not None:
            self._commit.close()
        self._closed = True
        with self._readers_lock:
            for connection in self._readers:
                connection.close()
            self._readers.clear()
        if self._commit is not None:
            self._writer.close()  # the last one to close: it moves the write-ahead log into the file
        if self._lock is not None:
            self._lock.close()

    # Below: reading.

    def _reader(self) -> sqlite3.Connection:
        if self._closed:
            raise Unavailable("history: the server is shutting down")
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30
            )
            self._local.connection = connection
            with self._readers_lock:
                self._readers.append(connection)
        return connection

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._reader().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise translate(error) from None

    def _one(self, sql: str, *values: object) -> tuple[Any, ...]:
        rows = self._rows(sql, *values)
        if not rows:
            raise NotFound("history: the record is gone")
        return rows[0]

    def _runs(self, condition: str, *values: object) -> list[RunRecord]:
        rows = self._rows(
            f"SELECT run_id, name, vocabulary_size, vocabulary_fingerprint FROM runs {condition}", *values
        )
        return [
            RunRecord(run_id, name, Vocabulary(size, fingerprint)) for run_id, name, size, fingerprint in rows
        ]

    def _groups(self, prompt_id: int, key: bytes, token_ids: Int32Array, order: str) -> Iterator[GroupRecord]:
        # The list comes from an index and each payload from its own query, so that one damaged page costs one group.
        found = self._rows(
            f"SELECT group_row FROM groups WHERE prompt_id = ? ORDER BY epoch {order}, step {order}, validation",
            prompt_id,
        )
        for (row,) in found:
            try:
                epoch, step, validation, group_id, payload = self._one(
                    "SELECT epoch, step, validation, group_id, payload FROM groups WHERE group_row = ?", row
                )
                responses = codec.decode(payload)
            except NotFound:
                continue  # forgotten between the two queries
            except DataLoss as error:
                self._skip(f"group {row}", error)
                continue
            yield GroupRecord(key, token_ids, epoch, step, bool(validation), group_id, responses)

    def _skip(self, what: str, error: RedraftError) -> None:
        self.damaged += 1
        event(_LOG, logging.ERROR, "damaged record skipped", record=what, file=self._path, reason=error)

    # Below: on the writer's thread, inside its transaction.

    def _submit(self, work: Callable[[sqlite3.Connection], T], *, nbytes: int = 0) -> Future[T]:
        if self._commit is None:
            raise FailedPrecondition("history: it was opened for reading only")
        return self._commit.submit(work, nbytes=nbytes)

    def _next_revision(self) -> int:
        self._revision += 1  # not taken back with a failed transaction: gaps are harmless
        self._writer.execute("UPDATE meta SET value = ? WHERE name = 'revision'", (self._revision,))
        return self._revision

    def _retain(
        self, connection: sqlite3.Connection, run: RunRecord, groups: Sequence[GroupRecord], tokens: int
    ) -> None:
        if self._retention is None or not groups:
            return
        prompts = [
            prompt_id
            for key in {group.key for group in groups}
            for (prompt_id,) in connection.execute(
                "SELECT prompt_id FROM prompts WHERE run_id = ? AND key = ?", (run.run_id, key)
            )
        ]
        newest = max(group.epoch for group in groups)
        responses, removed = self._retention.apply(
            connection, run.run_id, prompts, epoch=newest, tokens=tokens
        )
        if responses:
            event(_LOG, logging.INFO, "beyond retention", run=run.name, responses=responses, tokens=removed)
