"""The indexes and the drafter against the brute-force reference, on small alphabets where contexts are long and
ambiguous. `REDRAFT_EXAMPLES` sets the number of examples a test runs (default 100; 100000 for a nightly run).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from redraft import SOURCE_HISTORY, SOURCE_LIVE, SOURCE_NONE, Drafter, FrozenIndex, LiveIndex

sys.path.insert(0, str(Path(__file__).parents[1]))
from reference import START, Context, FrozenReference, LiveReference

EXAMPLES = int(os.environ.get("REDRAFT_EXAMPLES", "100"))
thorough = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

token = st.integers(0, 3)
tokens = st.lists(token, max_size=8)
response = st.lists(token, min_size=1, max_size=12)
repeated = st.tuples(response, st.integers(1, 6)).map(lambda x: x[0] * x[1])
looped = st.tuples(response, st.lists(token, min_size=1, max_size=2), st.integers(10, 20), tokens).map(
    lambda x: x[0][:3] + x[1] * x[2] + x[3][:3]
)
# Dyadic weights: their sums are exact in any order.
weight = st.sampled_from([0.25, 0.5, 1.0, 1.5, 4.0])


def ids(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def ragged(rows: Sequence[Sequence[int]], dtype: type) -> npt.NDArray[np.generic]:
    return np.cumsum([0] + [len(row) for row in rows]).astype(dtype)


def freeze(responses: Sequence[Sequence[int]], weights: Sequence[float] | None = None) -> FrozenIndex:
    flat = ids([t for r in responses for t in r])
    given_weights = None if weights is None else np.array(weights, dtype=np.float32)
    return FrozenIndex.build(flat, ragged(responses, np.int64), given_weights)


def agree_on_context(
    index: FrozenIndex, twin: FrozenReference, context: Sequence[int], from_start: bool
) -> None:
    whole: Context = ((START,) if from_start else ()) + tuple(context)
    array = ids(context)
    assert index.match_length(array, from_start=from_start) == twin.match_length(whole)
    assert index.count(array, from_start=from_start) == twin.count(whole)
    assert index.weight(array, from_start=from_start) == twin.weight(whole)
    drafted, shares = index.continuation(array, horizon=6, from_start=from_start)
    expected, expected_shares = twin.continuation(whole, 6)
    assert drafted.tolist() == expected
    assert shares.tolist() == [float(share) for share in expected_shares]


@thorough
@given(st.lists(st.one_of(response, repeated, looped), min_size=1, max_size=5), st.data())
def test_frozen_index_agrees_with_the_reference(responses: list[list[int]], data: st.DataObject) -> None:
    weights = data.draw(
        st.one_of(st.none(), st.lists(weight, min_size=len(responses), max_size=len(responses)))
    )
    index = freeze(responses, weights)
    twin = FrozenReference(responses, weights)
    assert index.num_tokens == sum(map(len, responses))
    assert index.num_responses == len(responses)
    contexts = data.draw(
        st.lists(st.tuples(st.lists(st.integers(0, 4), max_size=10), st.booleans()), max_size=8)
    )
    for text in responses:  # contexts that do occur
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, len(text)))
        contexts.append((text[begin:end], begin == 0))
    for context, from_start in contexts:
        agree_on_context(index, twin, context, from_start)


@thorough
@given(st.lists(response, min_size=1, max_size=4), st.lists(token, max_size=10))
def test_a_blob_reads_back_as_the_same_index(responses: list[list[int]], context: list[int]) -> None:
    index = freeze(responses)
    blob = index.to_bytes()
    assert index.nbytes == len(blob)
    assert freeze(responses).to_bytes() == blob
    again = FrozenIndex.from_buffer(memoryview(b"x" + blob)[1:])  # at an odd address
    assert again.to_bytes() == blob
    agree_on_context(again, FrozenReference(responses), context, False)


@thorough
@given(
    st.lists(response, min_size=1, max_size=4),
    st.integers(0, 2**31 - 1),
    st.sampled_from([1, 1 << 21, 50_000]),
)
def test_large_and_scattered_token_ids(responses: list[list[int]], base: int, stride: int) -> None:
    spread = [[(base + t * stride) % 2**31 for t in r] for r in responses]
    index = freeze(spread)
    twin = FrozenReference(spread)
    for text in spread:
        agree_on_context(index, twin, text[: len(text) // 2], True)


class LiveMachine(RuleBasedStateMachine):
    """Any interleaving of siblings' growth."""

    sequences = Bundle("sequences")

    @initialize(prompt=tokens, count_depth=st.sampled_from([1, 2, 3, 8, 64]))
    def start(self, prompt: list[int], count_depth: int) -> None:
        self.index = LiveIndex(ids(prompt), count_depth=count_depth)
        self.twin = LiveReference(prompt, count_depth)
        self.last: tuple[int, ...] = tuple(prompt)

    @rule(target=sequences, new=st.one_of(st.none(), tokens))
    def add(self, new: list[int] | None) -> int:
        handle = self.index.add_sequence(None if new is None else ids(new))
        assert handle == self.twin.add_sequence(new or [])
        return handle

    @rule(sequence=sequences, new=tokens)
    def append(self, sequence: int, new: list[int]) -> None:
        self.index.append(sequence, ids(new))
        self.twin.append(sequence, new)
        self.last = self.twin.sequences[sequence]

    @rule(sequence=consumes(sequences))
    def end(self, sequence: int) -> None:
        self.index.end_sequence(sequence)

    @rule(context=st.lists(st.integers(0, 4), max_size=8))
    def look_up(self, context: list[int]) -> None:
        self.agree(tuple(context))

    def agree(self, context: Context) -> None:
        assert self.index.match_length(ids(context)) == self.twin.match_length(context)
        assert self.index.count(ids(context)) == self.twin.count(context)
        drafted, shares = self.index.continuation(ids(context), horizon=6)
        expected, expected_shares = self.twin.continuation(context, 6)
        assert drafted.tolist() == expected
        assert shares.tolist() == [float(share) for share in expected_shares]

    @invariant()
    def agrees_on_what_grew_last(self) -> None:
        if hasattr(self, "index"):
            assert self.index.num_tokens == self.twin.num_tokens
            for n in (1, 3, len(self.last)):
                self.agree(self.last[max(0, len(self.last) - n) :])


class DrafterMachine(RuleBasedStateMachine):
    """Requests come, take histories early and late, grow, are drafted for in batches, and go."""

    requests = Bundle("requests")

    @initialize(
        prompt=tokens, histories=st.lists(st.lists(response, min_size=1, max_size=3), min_size=1, max_size=2)
    )
    def start(self, prompt: list[int], histories: list[list[list[int]]]) -> None:
        self.live = LiveIndex(ids(prompt))
        self.twin = LiveReference(prompt)
        self.prompt = tuple(prompt)
        self.histories = [(freeze(h), FrozenReference(h)) for h in histories]
        self.drafter = Drafter(min_survival=0.0, policy="longest")
        self.texts: dict[int, tuple[int, list[int]]] = {}  # request -> sequence in the twin, response
        self.history: dict[int, FrozenReference | None] = {}
        self.drafts: dict[int, tuple[int, list[int]]] = {}
        num_sources = len(self.drafter.stats()["drafted"])
        self.drafted = np.zeros((num_sources, 64), dtype=np.int64)
        self.accepted = np.zeros((num_sources, 64), dtype=np.int64)

    @rule(target=requests, done=st.one_of(st.none(), tokens), history=st.integers(-1, 1))
    def open(self, done: list[int] | None, history: int) -> int:
        index, twin = self.histories[history % len(self.histories)] if history >= 0 else (None, None)
        request = self.drafter.open(self.live, None if done is None else ids(done), history=index)
        assert request not in self.texts
        self.texts[request] = (self.twin.add_sequence(done or []), list(done or []))
        self.history[request] = twin
        return request

    @rule(request=requests, history=st.integers(-1, 1))
    def set_history(self, request: int, history: int) -> None:
        index, twin = self.histories[history % len(self.histories)] if history >= 0 else (None, None)
        self.drafter.set_history(request, index)
        self.history[request] = twin

    @rule(request=consumes(requests))
    def close(self, request: int) -> None:
        self.drafter.close(request)
        del self.texts[request], self.history[request]
        self.drafts.pop(request, None)

    @rule(data=st.data(), budget=st.integers(-1, 6))
    def step(self, data: st.DataObject, budget: int) -> None:
        order = data.draw(st.permutations(sorted(self.texts)))
        chosen = order[: data.draw(st.integers(0, len(order)))]
        new = [data.draw(st.lists(token, max_size=4)) for _ in chosen]
        for i, request in enumerate(chosen):  # often accept what was drafted
            if request in self.drafts and data.draw(st.booleans()):
                new[i] = self.drafts[request][1][: data.draw(st.integers(0, 4))] + new[i][:1]
        horizons = data.draw(st.lists(st.integers(0, 5), min_size=len(chosen), max_size=len(chosen)))
        flat = ids([t for row in new for t in row])
        batch = self.drafter.step(
            ids(chosen), flat, ragged(new, np.int32).astype(np.int32), ids(horizons), budget=budget
        )
        self.account(chosen, new)
        rows = np.split(batch.token_ids, batch.offsets[1:-1])[: len(chosen)]
        assert batch.offsets[0] == 0
        assert batch.offsets[-1] == len(batch.token_ids) == len(batch.probabilities)
        if budget >= 0:
            assert len(batch.token_ids) <= budget
        for i, request in enumerate(chosen):
            row, source = rows[i].tolist(), int(batch.sources[i])
            assert len(row) <= horizons[i]
            self.drafts[request] = (source, row)
            sequence, text = self.texts[request]
            if source == SOURCE_NONE:
                assert row == []
                assert batch.match_lengths[i] == 0
            elif source == SOURCE_HISTORY:
                twin = self.history[request]
                assert twin is not None
                assert row == twin.continuation((START, *text), horizons[i])[0][: len(row)]
            else:
                assert source == SOURCE_LIVE
                whole = self.twin.sequences[sequence]
                n = int(batch.match_lengths[i])
                assert row == self.twin.continuation(whole[len(whole) - n :], horizons[i])[0][: len(row)]
                assert n == self.live_match(whole)
            if budget < 0 and horizons[i] > 0:
                assert (row != []) == self.can_draft(request)

    def live_match(self, whole: Context) -> int:
        """Length of the longest suffix that goes on somewhere."""
        return next((n for n in range(len(whole), 0, -1) if whole[len(whole) - n :] in self.twin.best), 0)

    def can_draft(self, request: int) -> bool:
        sequence, text = self.texts[request]
        twin = self.history[request]
        from_history = twin is not None and twin.continuation((START, *text), 1)[0] != []
        return from_history or self.live_match(self.twin.sequences[sequence]) > 0

    def account(self, chosen: list[int], new: list[list[int]]) -> None:
        for request, row in zip(chosen, new, strict=True):
            sequence, text = self.texts[request]
            self.twin.append(sequence, row)
            text.extend(row)
            source, draft = self.drafts.pop(request, (0, []))
            if row:
                agreed = 0
                while agreed < min(len(row), len(draft)) and row[agreed] == draft[agreed]:
                    agreed += 1
                self.drafted[source, : len(draft)] += 1
                self.accepted[source, :agreed] += 1

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "drafter"):
            return
        assert self.drafter.num_requests == len(self.texts)
        for request, (_, text) in self.texts.items():
            assert self.drafter.length(request) == len(text)
        stats = self.drafter.stats()
        positions = stats["drafted"].shape[1]
        assert (stats["drafted"] == self.drafted[:, :positions]).all()
        assert (stats["accepted"] == self.accepted[:, :positions]).all()
        assert self.drafted[:, positions:].sum() == 0


TestLiveIndex = LiveMachine.TestCase
TestLiveIndex.settings = settings(thorough, stateful_step_count=30)
TestDrafter = DrafterMachine.TestCase
TestDrafter.settings = settings(thorough, stateful_step_count=30)
