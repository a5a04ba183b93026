"""What is removed from a history: what a client asks to forget, and what is beyond a run's retention.

All functions run on the writer's thread, inside its transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from redraft.server.config import RetentionConfig
from redraft.server.history import RunRecord, Scope

_SLACK = 0.02
"""Share of a run's limit that is removed beyond what must go, so that the run is not counted again at once."""

NextRevision = Callable[[], int]


def forget(
    connection: sqlite3.Connection, run: RunRecord, scope: Scope, next_revision: NextRevision
) -> tuple[int, int]:
    """Remove part of a run; return the numbers of responses and tokens removed."""
    condition, bound = "run_id = ?", [run.run_id]
    for column, value in (
        ("epoch >= ?", scope.from_epoch),
        ("step >= ?", scope.from_step),
        ("epoch < ?", scope.before_epoch),
    ):
        if value is not None:
            condition += f" AND {column}"
            bound.append(value)
    removed = _remove(connection, condition, bound, next_revision)
    _remove_empty_prompts(connection, run.run_id)
    if scope.everything:
        connection.execute("DELETE FROM runs WHERE run_id = ?", (run.run_id,))
    return removed


class Retention:
    """Keeps runs within their limits. Used by the writer's thread only.

    Args:
        config: the limits.
        next_revision: gives a new revision to prompts whose history changed.
    """

    def __init__(self, config: RetentionConfig, next_revision: NextRevision) -> None:
        self._config = config
        self._next_revision = next_revision
        # A transaction that fails does not take these back, which only delays what would be removed.
        # Upper bounds of the runs' tokens: counting a large run takes a while, so it is done only near the limit.
        self._at_most: dict[int, int] = {}
        self._newest: dict[int, int] = {}

    def apply(
        self,
        connection: sqlite3.Connection,
        run_id: int,
        prompt_ids: Iterable[int],
        *,
        epoch: int,
        tokens: int,
    ) -> tuple[int, int]:
        """Remove what is beyond the limits after something was added; return responses and tokens removed.

        Args:
            connection: in a transaction.
            run_id: the run that was added to.
            prompt_ids: its prompts that were added to.
            epoch: newest epoch among what was added.
            tokens: how many were added.
        """
        responses = removed = 0
        for part in (
            self._keep_epochs(connection, run_id, epoch),
            *(self._keep_prompt_tokens(connection, prompt_id) for prompt_id in prompt_ids),
            self._keep_run_tokens(connection, run_id, tokens),
        ):
            responses += part[0]
            removed += part[1]
        return responses, removed

    def _keep_epochs(self, connection: sqlite3.Connection, run_id: int, epoch: int) -> tuple[int, int]:
        if not self._config.epochs or epoch <= self._newest.get(run_id, -1):
            return 0, 0
        (newest,) = connection.execute("SELECT MAX(epoch) FROM groups WHERE run_id = ?", (run_id,)).fetchone()
        self._newest[run_id] = newest
        bound = [run_id, newest - self._config.epochs + 1]
        removed = _remove(connection, "run_id = ? AND epoch < ?", bound, self._next_revision)
        if removed[0]:
            _remove_empty_prompts(connection, run_id)
        return removed

    def _keep_prompt_tokens(self, connection: sqlite3.Connection, prompt_id: int) -> tuple[int, int]:
        if not self._config.prompt_tokens:
            return 0, 0
        total, beyond = 0, []
        for row, tokens in connection.execute(
            "SELECT group_row, tokens FROM groups WHERE prompt_id = ? ORDER BY epoch DESC, step DESC, validation",
            (prompt_id,),
        ).fetchall():
            if total and total + tokens > self._config.prompt_tokens:
                beyond.append(row)
                total = self._config.prompt_tokens  # what is older goes too, so that no gap remains
            total += tokens
        return self._remove_rows(connection, beyond)

    def _keep_run_tokens(self, connection: sqlite3.Connection, run_id: int, added: int) -> tuple[int, int]:
        limit = self._config.run_tokens
        if not limit:
            return 0, 0
        if run_id in self._at_most:
            self._at_most[run_id] += added
            if self._at_most[run_id] <= limit:
                return 0, 0
        (total,) = connection.execute(
            "SELECT COALESCE(SUM(tokens), 0) FROM groups WHERE run_id = ?", (run_id,)
        ).fetchone()
        self._at_most[run_id] = total
        if total <= limit:
            return 0, 0
        # The newest group of each prompt stays: a prompt that is asked for again must not lose all its history.
        oldest = connection.execute(
            "SELECT group_row, tokens FROM groups AS old WHERE run_id = ? AND EXISTS (SELECT 1 FROM groups AS new "
            "WHERE new.prompt_id = old.prompt_id AND (new.epoch, new.step) > (old.epoch, old.step)) "
            "ORDER BY epoch, step",
            (run_id,),
        )
        rows, wanted = [], total - limit + int(limit * _SLACK)
        for row, tokens in oldest:
            if wanted <= 0:
                break
            rows.append(row)
            wanted -= tokens
        oldest.close()
        removed = self._remove_rows(connection, rows)
        self._at_most[run_id] = total - removed[1]
        return removed

    def _remove_rows(self, connection: sqlite3.Connection, rows: list[int]) -> tuple[int, int]:
        responses = tokens = 0
        for start in range(0, len(rows), 500):  # SQLite bounds the number of variables
            some = rows[start : start + 500]
            condition = f"group_row IN ({', '.join('?' * len(some))})"
            part = _remove(connection, condition, some, self._next_revision)
            responses, tokens = responses + part[0], tokens + part[1]
        return responses, tokens


def _remove(
    connection: sqlite3.Connection, condition: str, bound: list[int], next_revision: NextRevision
) -> tuple[int, int]:
    responses, tokens = connection.execute(
        f"SELECT COALESCE(SUM(responses), 0), COALESCE(SUM(tokens), 0) FROM groups WHERE {condition}", bound
    ).fetchone()
    if not responses:
        return 0, 0
    connection.execute(
        f"UPDATE prompts SET revision = ? WHERE prompt_id IN (SELECT prompt_id FROM groups WHERE {condition})",
        (next_revision(), *bound),
    )
    connection.execute(f"DELETE FROM groups WHERE {condition}", bound)
    return responses, tokens


def _remove_empty_prompts(connection: sqlite3.Connection, run_id: int) -> None:
    connection.execute(
        "DELETE FROM prompts WHERE run_id = ? AND NOT EXISTS "
        "(SELECT 1 FROM groups WHERE groups.prompt_id = prompts.prompt_id)",
        (run_id,),
    )
