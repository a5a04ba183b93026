"""Bad input to the core: the right exception, naming the argument, and nothing changed."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from redraft import DataLoss, Drafter, FrozenIndex, InvalidArgument, LiveIndex, NotFound, ResourceExhausted


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def offsets(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def weights(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.fixture
def frozen() -> FrozenIndex:
    return FrozenIndex.build(ids(1, 2, 3, 1, 2, 4), offsets(0, 3, 6))


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("token_ids", lambda: FrozenIndex.build(ids(1, -2), offsets(0, 2))),
        ("token_ids", lambda: FrozenIndex.build(offsets(1, 2), offsets(0, 2))),
        ("token_ids", lambda: FrozenIndex.build(np.array([1, 2**31], dtype=np.uint32), offsets(0, 2))),
        ("token_ids", lambda: FrozenIndex.build([1, 2], offsets(0, 2))),  # type: ignore[arg-type]
        ("token_ids", lambda: FrozenIndex.build(ids(1, 2, 3, 4)[::2], offsets(0, 2))),
        ("token_ids", lambda: FrozenIndex.build(ids(1, 2).reshape(1, 2), offsets(0, 2))),
        ("offsets", lambda: FrozenIndex.build(ids(1, 2), ids(0, 2))),
        ("offsets", lambda: FrozenIndex.build(ids(1, 2), offsets())),
        ("offsets", lambda: FrozenIndex.build(ids(), offsets(0))),
        ("offsets", lambda: FrozenIndex.build(ids(1, 2), offsets(1, 2))),
        ("offsets", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 1))),
        ("offsets", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 3))),
        ("offsets", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 3, 2))),
        ("offsets: response 1 is empty", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 2, 2))),
        ("weights", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 2), weights(0.0))),
        ("weights", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 2), weights(-1.0))),
        ("weights", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 2), weights(float("nan")))),
        ("weights", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 2), weights(float("inf")))),
        ("weights", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 2), weights(1.0, 1.0))),
        ("weights", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 2), weights())),
        ("memory_limit", lambda: FrozenIndex.build(ids(1, 2), offsets(0, 2), memory_limit=-1)),
        ("prompt_token_ids", lambda: LiveIndex(ids(-1))),
        ("prompt_token_ids", lambda: LiveIndex(None)),  # type: ignore[arg-type]
        ("count_depth", lambda: LiveIndex(ids(1), count_depth=0)),
        ("memory_limit", lambda: LiveIndex(ids(1), memory_limit=-5)),
        ("min_survival", lambda: Drafter(min_survival=1.5)),
        ("min_survival", lambda: Drafter(min_survival=float("nan"))),
        ("num_threads", lambda: Drafter(num_threads=0)),
    ],
)
def test_malformed_arguments_are_refused_by_name(name: str, build: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgument, match=rf"^{name}"):
        build()


def test_malformed_queries_are_refused(frozen: FrozenIndex) -> None:
    with pytest.raises(InvalidArgument, match=r"^context"):
        frozen.match_length(ids(-1))
    with pytest.raises(InvalidArgument, match=r"^horizon"):
        frozen.continuation(ids(1), horizon=-1)
    with pytest.raises(InvalidArgument, match=r"^buffer"):
        FrozenIndex.from_buffer("text")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"^buffer"):
        FrozenIndex.from_buffer(memoryview(frozen.to_bytes())[::2])


def test_every_truncation_and_every_damaged_byte_is_refused(frozen: FrozenIndex) -> None:
    blob = frozen.to_bytes()
    for size in range(len(blob)):
        with pytest.raises(DataLoss, match=r"^buffer"):
            FrozenIndex.from_buffer(blob[:size])
    for at in range(len(blob)):
        damaged = bytearray(blob)
        damaged[at] ^= 0x40
        with pytest.raises(DataLoss, match=r"^buffer"):
            FrozenIndex.from_buffer(damaged)
    with pytest.raises(DataLoss, match=r"^buffer"):
        FrozenIndex.from_buffer(blob + b"\0" * 8)


def test_damage_behind_the_header_never_crashes_an_unverified_index(frozen: FrozenIndex) -> None:
    blob = frozen.to_bytes()
    random = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(blob)
        for _ in range(random.integers(1, 8)):
            damaged[random.integers(208, len(blob))] = random.integers(256)
        index = FrozenIndex.from_buffer(damaged, verify=False)
        drafter = Drafter(min_survival=0.0)
        request = drafter.open(LiveIndex(ids()), ids(1, 2, 3), history=index)
        drafter.step(ids(request), ids(1, 2), ids(0, 2), ids(50))
        for context in (ids(1, 2), ids(1, 2, 3, 1, 4)):
            index.match_length(context)
            index.weight(context)
            index.continuation(context, horizon=50)


def test_an_index_reads_a_file_in_place_and_keeps_it_mapped(frozen: FrozenIndex, tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(frozen.to_bytes())
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    index = FrozenIndex.from_buffer(mapped)
    with pytest.raises(BufferError):
        mapped.close()
    assert index.count(ids(1, 2)) == 2
    del index
    mapped.close()


def test_building_stops_at_the_memory_limit() -> None:
    tokens = np.arange(10_000, dtype=np.int32) % 50
    with pytest.raises(ResourceExhausted, match=r"^memory_limit"):
        FrozenIndex.build(tokens, offsets(0, 10_000), memory_limit=100_000)
    assert FrozenIndex.build(tokens, offsets(0, 10_000), memory_limit=10_000_000).num_tokens == 10_000


def test_a_live_index_stops_at_its_memory_limit_and_stays_readable() -> None:
    live = LiveIndex(ids(1, 2, 3), memory_limit=50_000)
    sequence = live.add_sequence()

    def fill() -> None:
        for token in range(10_000):
            live.append(sequence, ids(token))

    with pytest.raises(ResourceExhausted, match=r"^memory_limit"):
        fill()
    assert live.nbytes <= 50_000
    before = live.num_tokens
    with pytest.raises(ResourceExhausted):
        live.append(sequence, np.arange(5_000, dtype=np.int32))
    assert live.num_tokens == before
    assert live.match_length(ids(1, 2, 3)) == 3


def test_a_request_whose_live_index_is_full_drafts_from_its_history(frozen: FrozenIndex) -> None:
    drafter = Drafter(policy="longest")
    request = drafter.open(LiveIndex(ids(), memory_limit=20_000), history=frozen)
    drafter.step(ids(request), np.arange(10, 310, dtype=np.int32), ids(0, 300), ids(0))
    batch = drafter.step(ids(request), ids(1, 2), ids(0, 2), ids(4))
    assert batch.token_ids.tolist() == [3]
    assert drafter.stats()["live_dropped"].tolist() == [1]
    drafter.close(request)


def test_unknown_and_ended_sequences_are_refused() -> None:
    live = LiveIndex(ids(1))
    sequence = live.add_sequence(ids(2))
    live.end_sequence(sequence)
    for unknown in (sequence, 1, -1, 2**40):
        with pytest.raises(NotFound, match=r"^sequence"):
            live.append(unknown, ids(1))
        with pytest.raises(NotFound, match=r"^sequence"):
            live.end_sequence(unknown)
    assert live.num_tokens == 2
    assert live.num_sequences == 1


def test_a_refused_step_changes_nothing(frozen: FrozenIndex) -> None:
    drafter = Drafter(policy="longest")
    live = LiveIndex(ids(1))
    a = drafter.open(live, ids(1), history=frozen)
    b = drafter.open(live, history=frozen)
    closed = drafter.open(live)
    drafter.close(closed)
    good = [ids(a, b), ids(2, 3), ids(0, 1, 2), ids(4, 4)]
    bad: list[tuple[str, int, np.ndarray]] = [
        ("request", 0, ids(a, closed)),
        ("request", 0, ids(a, 12345)),
        ("request", 0, ids(-1, b)),
        ("requests", 0, ids(a, a)),
        ("requests", 0, offsets(a, b)),
        ("new_token_ids", 1, ids(2, -3)),
        ("new_token_ids", 1, weights(2, 3)),
        ("offsets", 2, ids(0, 2, 1)),
        ("offsets", 2, ids(0, 1)),
        ("offsets", 2, ids(1, 1, 2)),
        ("offsets", 2, ids(0, 1, 1)),
        ("horizons", 3, ids(4, -1)),
        ("horizons", 3, ids(4)),
    ]
    for name, position, value in bad:
        arguments = [*good]
        arguments[position] = value
        with pytest.raises((InvalidArgument, NotFound), match=rf"^{name}"):
            drafter.step(*arguments)
    with pytest.raises(InvalidArgument, match=r"^budget"):
        drafter.step(*good, budget=-2)
    assert live.num_tokens == 2
    assert drafter.length(a) == 1
    assert drafter.stats()["steps"].tolist() == [0]
    assert drafter.step(*good).token_ids.tolist()[:1] == [3]


def test_a_closed_handle_is_never_taken_for_the_next_request() -> None:
    drafter = Drafter()
    live = LiveIndex(ids(1))
    first = drafter.open(live)
    drafter.close(first)
    second = drafter.open(live)
    assert second != first
    with pytest.raises(NotFound, match=r"^request"):
        drafter.length(first)
    with pytest.raises(NotFound, match=r"^request"):
        drafter.close(first)
    assert drafter.num_requests == 1


def test_loops_and_deep_trees_need_no_deep_stack() -> None:
    loop = np.zeros(200_000, dtype=np.int32)
    index = FrozenIndex.build(loop, offsets(0, 200_000))
    assert index.match_length(loop) == 200_000
    assert index.count(loop[:100_000]) == 100_001
    live = LiveIndex(loop[:10])
    live.append(live.add_sequence(), loop)
    assert live.match_length(loop) == 200_000
    assert live.continuation(loop[:5], horizon=20)[0].tolist() == [0] * 20
