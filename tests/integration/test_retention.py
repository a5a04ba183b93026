"""What stays on disk of a run: newest epochs first, the newest group of a prompt always, and what clients see of it."""

from __future__ import annotations

from collections import Counter

import pytest

from redraft.errors import InvalidArgument
from redraft.server.config import RetentionConfig
from redraft.server.history import GroupRecord, ResponseRecord
from redraft.server.sqlite_history import SqliteHistory
from redraft.vocabulary import Vocabulary

TOKENS = 40  # of each response that the `rollout` fixture makes


@pytest.fixture
def store(tmp_path, rollout):
    opened = []

    class Store:
        def __init__(self, **limits):
            self.history = SqliteHistory(tmp_path / "data", retention=RetentionConfig(**limits))
            opened.append(self.history)
            self.run = self.history.open_run("run", Vocabulary(1000, "test"))

        def add(self, prompt: int, *, epoch: int, step: int = 0, size: int = 2, run=None):
            members = [rollout(prompt, sample, epoch=epoch, step=step) for sample in range(size)]
            record = GroupRecord(
                key=members[0].key,
                prompt_token_ids=members[0].prompt_token_ids,
                epoch=epoch,
                step=step,
                validation=False,
                group_id="",
                responses=[ResponseRecord(m.sample, m.response_token_ids, m.reward) for m in members],
            )
            (result,) = self.history.append(run or self.run, [record]).result(20)
            assert result.error is None
            return members[0]

        def epochs(self, run=None) -> dict[int, int]:
            """Return epoch -> groups."""
            return dict(Counter(group.epoch for group in self.history.export(run or self.run)))

    yield Store
    for each in opened:
        each.close()


def test_without_limits_everything_stays(store):
    history = store()
    for epoch in range(20):
        history.add(0, epoch=epoch)
    assert len(history.epochs()) == 20


def test_only_the_newest_epochs_of_a_run_stay(store):
    history = store(epochs=2)
    for epoch in range(5):
        for prompt in range(3):
            history.add(prompt, epoch=epoch, step=epoch)
    assert history.epochs() == {3: 3, 4: 3}


def test_a_prompt_that_is_only_in_removed_epochs_goes_with_them(store):
    history = store(epochs=1)
    gone = history.add(0, epoch=0)
    kept = history.add(1, epoch=1)
    assert history.history.prompt(history.run, gone.key, gone.prompt_token_ids) is None
    assert history.history.prompt(history.run, kept.key, kept.prompt_token_ids) is not None


def test_a_prompt_keeps_its_newest_tokens_without_a_gap(store):
    history = store(prompt_tokens=5 * TOKENS)
    history.add(1, epoch=0)
    for epoch, size in enumerate([1, 4, 2, 2]):
        history.add(0, epoch=epoch, size=size)
    # 2 + 2 responses fit, the 4 of epoch 1 do not, and the one of epoch 0 that would is older than those.
    assert history.epochs() == {0: 1, 2: 1, 3: 1}  # epoch 0 is the other prompt's


def test_the_newest_group_of_a_prompt_stays_however_large(store):
    history = store(prompt_tokens=TOKENS, run_tokens=TOKENS)
    history.add(0, epoch=0, size=5)
    assert history.epochs() == {0: 1}
    history.add(0, epoch=1, size=5)
    assert history.epochs() == {1: 1}


def test_a_run_loses_its_oldest_epochs_beyond_its_tokens(store):
    history = store(run_tokens=20 * TOKENS)
    for epoch in range(6):
        for prompt in range(4):
            history.add(prompt, epoch=epoch, step=epoch)
    assert history.history.summary(history.run).tokens <= 20 * TOKENS
    epochs = history.epochs()
    assert min(epochs) >= 3
    assert epochs[4] == epochs[5] == 4


def test_runs_have_limits_of_their_own(store):
    history = store(run_tokens=4 * TOKENS, epochs=3)
    other = history.history.open_run("other", Vocabulary(1000, "test"))
    for epoch in range(4):
        history.add(0, epoch=epoch, run=other)
        history.add(0, epoch=epoch + 10)
    assert history.epochs(other) == {2: 1, 3: 1}
    assert history.epochs() == {12: 1, 13: 1}


def test_limits_hold_after_a_restart_too(store, tmp_path):
    history = store()
    for epoch in range(5):
        history.add(0, epoch=epoch)
    history.history.close()
    history = store(epochs=1)
    history.add(1, epoch=4)
    assert history.epochs() == {4: 2}


def test_a_prompt_whose_history_shrank_has_a_new_revision(store):
    history = store(run_tokens=4 * TOKENS)
    first = history.add(0, epoch=0)
    history.add(0, epoch=1)
    before = history.history.prompt(history.run, first.key, first.prompt_token_ids)
    history.add(1, epoch=2)
    after = history.history.prompt(history.run, first.key, first.prompt_token_ids)
    assert after.revision > before.revision


def test_what_is_removed_is_no_longer_drafted_from(start, publisher, source, rollout):
    running = start(retention=RetentionConfig(epochs=1))
    publish = publisher(running.address)
    for epoch in range(2):
        publish.publish([rollout(0, epoch=epoch, step=epoch)])
        assert publish.flush(20)
    drafts = source(running.address)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    index = drafts.get(rollout().prompt_token_ids)
    assert index.num_tokens == TOKENS


@pytest.mark.parametrize("limit", ["epochs", "prompt_tokens", "run_tokens"])
def test_negative_limits_are_refused_by_name(limit):
    with pytest.raises(InvalidArgument, match=rf"^{limit}: must not be negative, got -1"):
        RetentionConfig(**{limit: -1})
