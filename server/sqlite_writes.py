"""What the history writes, on the writer's thread and inside its transaction: groups, and runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import numpy as np

from redraft.errors import DataLoss, FailedPrecondition, RedraftError
from redraft.server import codec
from redraft.server.history import Appended, GroupRecord, Int32Array, ResponseRecord, RunRecord
from redraft.vocabulary import Vocabulary


class GroupWriter:
    """Stores groups: new ones as they are, known ones merged with what is there.

    Args:
        next_revision: hands out the history's revisions.
        skip: is told of a damaged record that is replaced, and why it is called damaged.
    """

    def __init__(self, next_revision: Callable[[], int], skip: Callable[[str, RedraftError], None]) -> None:
        self._next_revision, self._skip = next_revision, skip

    def put(
        self,
        connection: sqlite3.Connection,
        run: RunRecord,
        group: GroupRecord,
        prompt: bytes,
        payload: bytes,
    ) -> Appended:
        """Store a group's responses and give its prompt a new revision if anything changed.

        Args:
            connection: the writer's.
            run: whose group it is.
            group: the group, checked.
            prompt: its prompt's stored form.
            payload: its responses' stored form.
        """
        found = connection.execute(
            "SELECT prompt_id, token_ids FROM prompts WHERE run_id = ? AND key = ?", (run.run_id, group.key)
        ).fetchone()
        if found is None:
            prompt_id = connection.execute(
                "INSERT INTO prompts (run_id, key, revision, token_ids) VALUES (?, ?, 0, ?)",
                (run.run_id, group.key, prompt),
            ).lastrowid
        else:
            prompt_id, stored = found
            try:
                if stored != prompt and not same_prompt(stored, group.prompt_token_ids):
                    return Appended(
                        error=FailedPrecondition("prompt.key: another prompt of the run has this key")
                    )
            except DataLoss as error:
                self._skip(f"prompt {prompt_id} (now replaced)", error)
                connection.execute(
                    "UPDATE prompts SET token_ids = ? WHERE prompt_id = ?", (prompt, prompt_id)
                )
        identity = (prompt_id, group.epoch, group.step, group.validation)
        old = connection.execute(
            "SELECT group_row, payload FROM groups WHERE prompt_id = ? AND epoch = ? AND step = ? AND validation = ?",
            identity,
        ).fetchone()
        responses = group.responses
        if old is None:
            result = Appended(stored=len(responses))
        elif old[1] == payload:
            return Appended(unchanged=len(responses))
        else:
            responses, result = self._merge(old, responses)
            if not (result.stored or result.replaced):
                return result
            payload = codec.encode(responses)
            connection.execute("DELETE FROM groups WHERE group_row = ?", (old[0],))
        rewards = [r.reward for r in responses if r.reward is not None and not group.validation]
        tokens = sum(r.token_ids.size for r in responses)
        connection.execute(
            "INSERT INTO groups (run_id, prompt_id, epoch, step, validation, group_id, responses, tokens, rewarded, "
            "reward_sum, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run.run_id,
                *identity,
                group.group_id,
                len(responses),
                tokens,
                len(rewards),
                sum(rewards),
                payload,
            ),
        )
        connection.execute(
            "UPDATE prompts SET revision = ? WHERE prompt_id = ?",
            (self._next_revision(), prompt_id),
        )
        return result

    def _merge(
        self, old: tuple[int, bytes], new: Sequence[ResponseRecord]
    ) -> tuple[list[ResponseRecord], Appended]:
        try:
            merged = {response.sample: response for response in codec.decode(old[1])}
        except DataLoss as error:
            self._skip(f"group {old[0]} (now replaced)", error)
            merged = {}
        stored = replaced = unchanged = 0
        for response in new:
            known = merged.get(response.sample)
            if known is None:
                stored += 1
            elif known.same(response):
                unchanged += 1
            else:
                replaced += 1
            merged[response.sample] = response
        return list(merged.values()), Appended(stored, replaced, unchanged)


def open_run(connection: sqlite3.Connection, name: str, vocabulary: Vocabulary) -> RunRecord:
    """Return the run of that name, made or completed if need be.

    Raises:
        FailedPrecondition: the run has another vocabulary.
    """
    row = connection.execute(
        "SELECT run_id, vocabulary_size, vocabulary_fingerprint FROM runs WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        run_id = connection.execute(
            "INSERT INTO runs (name, vocabulary_size, vocabulary_fingerprint) VALUES (?, ?, ?)",
            (name, vocabulary.size, vocabulary.fingerprint),
        ).lastrowid
        return RunRecord(run_id or 0, name, vocabulary)
    known = RunRecord(row[0], name, Vocabulary(row[1], row[2]))
    known.check_vocabulary(vocabulary)
    merged = known.vocabulary.merged(vocabulary)
    connection.execute(
        "UPDATE runs SET vocabulary_size = ?, vocabulary_fingerprint = ? WHERE run_id = ?",
        (merged.size, merged.fingerprint, known.run_id),
    )
    return RunRecord(known.run_id, name, merged)


def same_prompt(stored: bytes, token_ids: Int32Array) -> bool:
    """Return whether a prompt's stored form holds these tokens.

    Raises:
        DataLoss: it is damaged.
    """
    return np.array_equal(codec.decode_prompt(stored), token_ids)
