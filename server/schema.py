"""The history's tables, their version, and the steps from each version to the next."""

from __future__ import annotations

import sqlite3
import time

from redraft.errors import FailedPrecondition

_MIGRATIONS: list[list[str]] = [
    # 0 -> 1
    [
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
        """
        CREATE TABLE runs (
            run_id INTEGER PRIMARY KEY AUTOINCREMENT, -- a forgotten run's number is never used again
            name TEXT NOT NULL UNIQUE,
            vocabulary_size INTEGER NOT NULL,
            vocabulary_fingerprint TEXT NOT NULL
        )
        """,
        """
        CREATE TABLE prompts (
            prompt_id INTEGER PRIMARY KEY AUTOINCREMENT,
            run_id INTEGER NOT NULL REFERENCES runs,
            key BLOB NOT NULL,
            revision INTEGER NOT NULL,
            token_ids BLOB NOT NULL,
            UNIQUE (run_id, key)
        )
        """,
        # One row holds all responses to a prompt from one step: siblings compress well together.
        """
        CREATE TABLE groups (
            group_row INTEGER PRIMARY KEY,
            run_id INTEGER NOT NULL REFERENCES runs,
            prompt_id INTEGER NOT NULL REFERENCES prompts,
            epoch INTEGER NOT NULL,
            step INTEGER NOT NULL,
            validation INTEGER NOT NULL,
            group_id TEXT NOT NULL,
            responses INTEGER NOT NULL,
            tokens INTEGER NOT NULL,
            rewarded INTEGER NOT NULL,
            reward_sum REAL NOT NULL,
            payload BLOB NOT NULL,
            UNIQUE (prompt_id, epoch, step, validation)
        )
        """,
        # Answers the statistics of a run without touching the payloads.
        "CREATE INDEX groups_by_epoch ON groups (run_id, epoch, step, responses, tokens, rewarded, reward_sum)",
    ],
    # 1 -> 2: payloads may tell what the policy did not write and which weights wrote the rest (codec.py). Older code
    # would take them for damaged ones.
    [],
]

VERSION = len(_MIGRATIONS)
"""The schema that this code reads and writes; SQLite's user_version holds a file's."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to VERSION, each step in its own transaction.

    Raises:
        FailedPrecondition: the file was written by a newer redraft.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    check_version(found)
    for version in range(found, VERSION):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _MIGRATIONS[version]:
                connection.execute(statement)
            if version == 0:
                # Revisions start from the clock, so that a client which holds an index of a lost history never
                # finds its revision again in the new one.
                connection.execute("INSERT INTO meta VALUES ('revision', ?)", (time.time_ns() // 1000,))
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def check_version(found: int) -> None:
    """Raise FailedPrecondition when a file's version is newer than this code."""
    if found > VERSION:
        raise FailedPrecondition(
            f"data_directory: its history has schema version {found}, this redraft knows up to {VERSION}; "
            "upgrade redraft or choose another directory with --data"
        )
