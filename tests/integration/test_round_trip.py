"""What is published comes back as indexes, drafts and figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from redraft.client import AcceptanceReporter, Counters, DraftClient, choose
from redraft.errors import NotFound
from redraft.rollout import prompt_key
from redraft.server.config import LimitsConfig
from redraft.v1 import common_pb2, drafting_pb2, index_pb2
from redraft.vocabulary import Vocabulary
from redraft.wire import tokens_from_bytes, tokens_to_bytes

HEADER = index_pb2.IndexHeader


def fetch(stub, rollout, *, run="run", revision=0, vocabulary=None):
    """Return (header, blob) of one prompt."""
    message = common_pb2.Run(name=run)
    if vocabulary is not None:
        message.vocabulary.size, message.vocabulary.fingerprint = vocabulary.size, vocabulary.fingerprint
    prompt = common_pb2.Prompt(token_ids=tokens_to_bytes(rollout.prompt_token_ids))
    wanted = index_pb2.WantedIndex(prompt=prompt, revision=revision)
    first, *rest = stub.FetchIndex(index_pb2.FetchIndexRequest(run=message, prompts=[wanted]), timeout=20)
    return first.header, b"".join(part.chunk for part in rest)


def test_published_responses_come_back_as_an_index(running, publisher, source, rollout, group):
    publish, drafts = publisher(running.address), source(running.address)
    responses = group(size=4)
    publish.publish(responses)
    assert publish.flush(20)
    drafts.prefetch(responses[0].prompt_token_ids)
    assert drafts.wait(20)
    index = drafts.get(responses[0].prompt_token_ids)
    assert index.num_responses == 4
    for response in responses:
        assert index.count(response.response_token_ids) >= 1
    assert index.count(rollout(prompt=1).response_token_ids) == 0
    assert drafts.get(rollout(prompt=1).prompt_token_ids) is None
    assert publish.stats().published == 4


def test_a_prompt_without_history_has_no_index(running, publisher, source, rollout):
    publish, drafts = publisher(running.address), source(running.address)
    drafts.prefetch(rollout().prompt_token_ids)  # the run does not exist yet
    assert drafts.wait(20)
    publish.publish([rollout(prompt=1)])
    assert publish.flush(20)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids) is None
    assert drafts.stats().no_history == 2


def test_sending_again_stores_once_and_sends_no_index_again(running, publisher, source, group):
    publish, drafts = publisher(running.address), source(running.address)
    prompt = group()[0].prompt_token_ids
    for _ in range(3):
        publish.publish(group())
        assert publish.flush(20)
        drafts.prefetch(prompt)
        assert drafts.wait(20)
    stats = running.stub.GetStats(_stats(), timeout=20)
    assert (stats.runs[0].responses, stats.server.index_builds) == (4, 1)
    assert (drafts.stats().fetched, drafts.stats().not_modified) == (1, 2)


def test_the_same_identity_replaces_and_a_new_sample_joins(running, publisher, source, rollout):
    publish, drafts = publisher(running.address), source(running.address)
    first, second = rollout(sample=0), rollout(sample=1)
    changed = rollout(sample=0, response_token_ids=np.arange(30, dtype=np.int32))
    for response in (first, second, changed):
        publish.publish([response])
        assert publish.flush(20)
    drafts.prefetch(first.prompt_token_ids)
    assert drafts.wait(20)
    index = drafts.get(first.prompt_token_ids)
    assert index.num_responses == 2
    assert index.count(first.response_token_ids) == 0
    assert index.count(changed.response_token_ids) == index.count(second.response_token_ids) == 1


def test_a_new_epoch_replaces_the_held_index(running, publisher, source, rollout):
    publish, drafts = publisher(running.address), source(running.address)
    prompt = rollout().prompt_token_ids
    seen = []
    for epoch in range(3):
        publish.publish([rollout(epoch=epoch, step=epoch)])
        assert publish.flush(20)
        drafts.prefetch(prompt)
        assert drafts.wait(20)
        seen.append(drafts.get(prompt))
    assert [index.num_responses for index in seen] == [1, 2, 3]  # the old ones stay readable
    assert drafts.arrivals == 3


def test_runs_are_kept_apart(running, publisher, source, rollout):
    one, two = publisher(running.address, run="one"), publisher(running.address, run="two")
    one.publish([rollout(sample=0)])
    two.publish([rollout(sample=1)])
    assert one.flush(20)
    assert two.flush(20)
    drafts = source(running.address, run="two")
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    index = drafts.get(rollout().prompt_token_ids)
    assert index.num_responses == 1
    assert index.count(rollout(sample=1).response_token_ids) == 1


def test_an_unknown_run_is_not_found(running, rollout):
    with pytest.raises(Exception, match="there is no run 'nobody'") as caught:
        fetch(running.stub, rollout(), run="nobody")
    assert caught.value.code().name == "NOT_FOUND"
    with DraftClient(running.address) as client:
        with pytest.raises(NotFound, match=r"^run: there is no run 'nobody'"):
            client.stats("nobody")
        with pytest.raises(NotFound, match=r"^run: there is no run 'nobody'"):
            client.forget("nobody", everything=True)


@pytest.mark.parametrize(
    ("other", "part"),
    [(Vocabulary(2000, "test"), "size"), (Vocabulary(1000, "other"), "fingerprint")],
)
def test_another_vocabulary_is_refused(running, publisher, source, rollout, group, other, part):
    publish = publisher(running.address)
    publish.publish(group())
    assert publish.flush(20)
    wrong = publisher(running.address, vocabulary=other)
    wrong.publish([rollout(sample=9)])
    assert wrong.flush(20)
    assert wrong.stats().refused == 1
    assert f"run.vocabulary.{part}" in wrong.stats().last_error
    with pytest.raises(Exception, match=f"run.vocabulary.{part}") as caught:
        fetch(running.stub, rollout(), vocabulary=other)
    assert caught.value.code().name == "FAILED_PRECONDITION"
    drafts = source(running.address, vocabulary=other)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    assert drafts.get(rollout().prompt_token_ids) is None
    assert drafts.stats().refused == 1
    assert running.stub.GetStats(_stats(), timeout=20).runs[0].responses == 4


def test_the_window_bounds_epochs_and_tokens(start, publisher, rollout):
    from redraft.server.config import WindowConfig

    running = start(window=WindowConfig(epochs=2, tokens=100))
    publish = publisher(running.address)
    publish.publish([rollout(sample=s, epoch=e, step=e) for e in range(3) for s in range(2)])
    assert publish.flush(20)
    header, blob = fetch(running.stub, rollout())
    assert (header.outcome, header.responses, header.tokens) == (HEADER.OUTCOME_SENT, 2, 80)  # 40 tokens each
    assert (header.newest_epoch, header.total_bytes) == (2, len(blob))


@pytest.mark.parametrize(
    "options",
    [{"chunk_bytes": 100}, {"limits": LimitsConfig(message_bytes=4096)}],
    ids=["small chunks", "small messages"],
)
def test_a_large_index_travels_in_chunks(start, publisher, source, rollout, options):
    running = start(**options)
    publish, drafts = publisher(running.address), source(running.address)
    text = np.random.default_rng(0).integers(0, 1000, 900).astype(np.int32)
    publish.publish([rollout(response_token_ids=text)])
    assert publish.flush(20)
    drafts.prefetch(rollout().prompt_token_ids)
    assert drafts.wait(20)
    index = drafts.get(rollout().prompt_token_ids)
    assert index.nbytes > 4096
    assert index.count(text) == 1


def test_indexes_stay_within_the_memory_budget(start, publisher, rollout):
    size = len(fetch_one(start(), publisher, rollout)[1])
    small = start(index_bytes=3 * size)
    publish = publisher(small.address)
    publish.publish([rollout(prompt) for prompt in range(8)])
    assert publish.flush(20)
    for prompt in range(8):
        assert fetch(small.stub, rollout(prompt))[0].outcome == HEADER.OUTCOME_SENT
    server = small.stub.GetStats(_stats(), timeout=20).server
    assert 0 < server.index_bytes <= 3 * size
    assert server.index_evictions >= 5


def test_published_prompts_are_indexed_before_anybody_asks(start, publisher, rollout, eventually):
    running = start(build_ahead=0.01)
    publish = publisher(running.address)
    publish.publish([rollout(prompt) for prompt in range(8)])
    assert publish.flush(20)

    def server():
        return running.stub.GetStats(_stats(), timeout=20).server

    eventually(lambda: server().index_builds == server().indexes == 8)
    for prompt in range(8):
        assert fetch(running.stub, rollout(prompt))[0].outcome == HEADER.OUTCOME_SENT
    assert (server().index_builds, server().index_hits) == (8, 8)


def test_building_ahead_never_drops_what_is_kept(start, publisher, rollout, eventually):
    size = len(fetch_one(start(), publisher, rollout)[1])
    running = start(build_ahead=0.01, index_bytes=4 * size)
    publish = publisher(running.address)
    publish.publish([rollout(prompt) for prompt in range(20)])
    assert publish.flush(20)
    eventually(lambda: running.stub.GetStats(_stats(), timeout=20).server.indexes >= 3)
    server = running.stub.GetStats(_stats(), timeout=20).server
    assert server.index_evictions <= 1
    assert server.index_bytes <= 4 * size


def fetch_one(running, publisher, rollout):
    """Publish one response and return what its prompt's index looks like."""
    publish = publisher(running.address)
    publish.publish([rollout()])
    assert publish.flush(20)
    return fetch(running.stub, rollout())


def test_the_source_stays_within_its_memory_budget(running, publisher, source, rollout):
    publish = publisher(running.address)
    publish.publish([rollout(prompt) for prompt in range(8)])
    assert publish.flush(20)
    one = source(running.address)
    one.prefetch(rollout(0).prompt_token_ids)
    assert one.wait(20)
    limit = 3 * one.stats().held_bytes
    drafts = source(running.address, memory_bytes=limit)
    for prompt in range(8):
        drafts.prefetch(rollout(prompt).prompt_token_ids)
    assert drafts.wait(20)
    assert 0 < drafts.stats().held_bytes <= limit
    assert drafts.stats().evicted >= 5
    assert drafts.get(rollout(7).prompt_token_ids) is not None


def test_prompts_are_shared_out_among_the_servers(start, publisher, source, rollout):
    servers = [start(), start(), start()]
    addresses = [each.address for each in servers]
    publish, drafts = publisher(*addresses), source(*addresses)
    publish.publish([rollout(prompt) for prompt in range(60)])
    assert publish.flush(20)
    owned = [choose(addresses, prompt_key(rollout(prompt).prompt_token_ids)) for prompt in range(60)]
    for each in servers:
        assert each.stub.GetStats(_stats(), timeout=20).runs[0].prompts == owned.count(each.address) > 0
    for prompt in range(60):
        drafts.prefetch(rollout(prompt).prompt_token_ids)
    assert drafts.wait(20)
    assert all(drafts.get(rollout(prompt).prompt_token_ids) for prompt in range(60))


def test_forgetting_from_a_step_on_drops_what_came_later(running, publisher, rollout):
    publish = publisher(running.address)
    publish.publish([rollout(epoch=step // 2, step=step) for step in range(6)])
    assert publish.flush(20)
    before, _ = fetch(running.stub, rollout())
    with DraftClient(running.address) as client:
        removed = client.forget("run", from_step=4)
        assert (removed.responses, removed.tokens) == (2, 80)
        assert [epoch.epoch for epoch in client.stats("run").runs[0].epochs] == [0, 1]
        after, _ = fetch(running.stub, rollout(), revision=before.revision)
        assert (after.outcome, after.responses) == (HEADER.OUTCOME_SENT, 4)
        assert client.forget("run", before_epoch=1).responses == 2
        assert client.forget("run", from_epoch=0).responses == 2
        assert fetch(running.stub, rollout())[0].outcome == HEADER.OUTCOME_NO_HISTORY
        client.forget("run", everything=True)
        with pytest.raises(NotFound):
            client.stats("run")


def test_a_forgotten_run_may_come_back_with_another_vocabulary(running, publisher, rollout):
    publish = publisher(running.address)
    publish.publish([rollout()])
    assert publish.flush(20)
    with DraftClient(running.address) as client:
        client.forget("run", everything=True)
        again = publisher(running.address, vocabulary=Vocabulary(5000, "other"))
        again.publish([rollout()])
        assert again.flush(20)
        assert client.stats("run").runs[0].run.vocabulary.size == 5000


def test_stats_tell_epochs_rewards_and_acceptance(running, publisher, rollout):
    publish = publisher(running.address)
    publish.publish([rollout(sample=s, epoch=e, step=e) for e in range(2) for s in range(4)])
    publish.publish([rollout(sample=0, epoch=1, step=1, validation=True, reward=100.0)])
    assert publish.flush(20)
    reporters = [AcceptanceReporter([running.address], run="run", worker=name, interval=0.0) for name in "ab"]
    for steps in (10, 20):  # cumulative: the second contains the first
        for reporter in reporters:
            counters = Counters(
                steps=steps,
                emitted=3 * steps,
                drafted={"history": [steps, 5]},
                accepted={"history": [steps - 1]},
            )
            reporter.report(counters, epoch=steps // 10 - 1)
            assert reporter.flush(20)
    for reporter in reporters:
        reporter.close()
    with DraftClient(running.address) as client:
        run = client.stats("run").runs[0]
    assert (run.prompts, run.responses, run.tokens) == (1, 9, 360)
    assert [(e.responses, e.rewarded, e.reward_sum) for e in run.epochs] == [(4, 4, 6.0), (5, 4, 6.0)]
    assert (run.acceptance.steps, run.acceptance.emitted) == (40, 120)
    assert list(run.acceptance.sources[0].drafted) == [40, 10]
    assert list(run.acceptance.sources[0].accepted) == [38]
    assert [epoch.acceptance.steps for epoch in run.epochs] == [20, 20]
    assert [worker.worker for worker in run.workers] == ["a", "b"]


def test_a_worker_that_starts_again_counts_from_zero(running):
    with DraftClient(running.address) as client:
        for steps in (50, 7):
            reporter = AcceptanceReporter([running.address], run="run", worker="w", interval=0.0)
            reporter.report(Counters(steps=steps, emitted=steps))
            assert reporter.flush(20)
            reporter.close()
        assert client.stats("run").runs[0].acceptance.steps == 57


def test_thin_clients_draft_over_a_stream(running, publisher, rollout):
    publish = publisher(running.address)
    known = rollout(sample=0)
    publish.publish([known])
    assert publish.flush(20)
    prompt = common_pb2.Prompt(token_ids=tokens_to_bytes(known.prompt_token_ids))

    def requests():
        yield drafting_pb2.DraftRequest(
            run=common_pb2.Run(name="run"),
            open=[drafting_pb2.OpenRequest(id=7, prompt=prompt)],
            advance=[drafting_pb2.AdvanceRequest(id=7, horizon=4)],
        )
        accepted = tokens_to_bytes(known.response_token_ids[:10])
        yield drafting_pb2.DraftRequest(
            advance=[drafting_pb2.AdvanceRequest(id=7, token_ids=accepted, horizon=8)],
        )
        yield drafting_pb2.DraftRequest(close=[7])

    answers = list(running.stub.Draft(requests(), timeout=20))
    assert len(answers) == 3
    drafts = [answer.drafts[0] for answer in answers[:2]]
    assert [draft.id for draft in drafts] == [7, 7]
    drafted = tokens_from_bytes(drafts[1].token_ids, "token_ids").tolist()
    assert 1 <= len(drafted) <= 8  # the drafter may stop before the horizon
    assert drafted == known.response_token_ids[10:18].tolist()[: len(drafted)]
    assert drafts[1].source == "history"
    assert drafts[1].match_length >= 10
    assert not answers[2].drafts


def test_siblings_of_a_stream_draft_from_each_other(running, publisher, rollout):
    publish = publisher(running.address)
    publish.publish([rollout(prompt=99)])  # the run exists, the prompt has no history
    assert publish.flush(20)
    first = rollout()
    prompt = common_pb2.Prompt(token_ids=tokens_to_bytes(first.prompt_token_ids))
    text = tokens_to_bytes(first.response_token_ids)

    def requests():
        yield drafting_pb2.DraftRequest(
            run=common_pb2.Run(name="run"),
            open=[drafting_pb2.OpenRequest(id=i, prompt=prompt) for i in range(2)],
            advance=[drafting_pb2.AdvanceRequest(id=0, token_ids=text)],
        )
        prefix = tokens_to_bytes(first.response_token_ids[:12])
        yield drafting_pb2.DraftRequest(
            close=[0], advance=[drafting_pb2.AdvanceRequest(id=1, token_ids=prefix, horizon=5)]
        )

    draft = list(running.stub.Draft(requests(), timeout=20))[1].drafts[0]
    assert (
        tokens_from_bytes(draft.token_ids, "token_ids").tolist() == first.response_token_ids[12:17].tolist()
    )
    assert draft.source == "live"


def test_the_documented_client_generates(running, publisher, rollout):
    publish = publisher(running.address)
    known = rollout(response_token_ids=np.arange(1000, dtype=np.int32) % 997)
    publish.publish([known])
    assert publish.flush(20)
    page = Path(__file__).parents[2].joinpath("doc", "protocol.md").read_text()
    example: dict = {}
    exec(page.split("```python\n")[1].split("```")[0], example)
    steps = 0

    def verify(prompt, response, draft):
        """Accept what agrees with the known response, and give its next token."""
        nonlocal steps
        steps += 1
        rest = known.response_token_ids[len(response) :].tolist()
        n = 0
        while n < len(draft) and n < len(rest) and draft[n] == rest[n]:
            n += 1
        return rest[: n + 1]

    response = example["generate"](verify, known.prompt_token_ids, running.address, "run")
    assert response == known.response_token_ids.tolist()
    assert steps < 500


def _stats():
    from redraft.v1 import stats_pb2

    return stats_pb2.GetStatsRequest()
