"""`redraft bench rpc`: the draft server under load, in a process of its own, over real channels on loopback.

Publishing is measured in the server's CPU time, so that a busy machine and the benchmark's own work disturb it less;
what a user waits for (fetching, restarting) in wall time.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from redraft._core import FrozenIndex
from redraft.benchmarks import rpc_load
from redraft.benchmarks.groups import Group, drifting
from redraft.benchmarks.rpc_relay import measure_relay
from redraft.benchmarks.rpc_server import ServerProcess
from redraft.client.channels import open_channel, open_fetch
from redraft.client.index_stream import assemble, keep_freed_memory
from redraft.rollout import prompt_key
from redraft.server.history import GroupRecord, ResponseRecord
from redraft.server.sqlite_history import SqliteHistory
from redraft.v1 import common_pb2, drafting_pb2, index_pb2, publish_pb2
from redraft.vocabulary import Vocabulary
from redraft.wire import tokens_to_bytes

_SERVICE = "/redraft.v1.DraftService/"
_FILLING_TURNS = 18  # finished responses of 2,000 tokens, more than a stream keeps
_INDEX_TOKENS = 240_000  # of the fetched prompt: an index of about 3 MB
_LIMITS = ("--max-peer-call-rate", "1000000", "--max-calls", "1024", "--max-peer-calls", "1024")

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is sent. The issue's full sizes are in `FULL`."""

    publish_tokens: int = 8_000_000
    """Tokens published to measure the speed of publishing."""
    ingest_prompts: int = 1_000
    """Prompts published to measure memory, 16 responses of 1,000 tokens each."""
    index_mebibytes: int = 256
    """The server's budget for indexes in that measurement, in MiB."""
    restart_bytes: int = 200_000_000
    """Size of the history that a restarted server opens, in bytes."""
    streams: int = 256
    """Draft streams held open."""
    hold_seconds: float = 30.0
    """How long they are held once each keeps as much as a stream may, in seconds."""
    fetch_seconds: float = 3.0
    """How long an index is fetched again and again, in seconds."""
    relay_groups: int = 64
    """Groups relayed between two workers, 16 siblings each at 50 tokens a second."""
    relay_seconds: float = 10.0
    """How long they are, in seconds."""


FULL = Sizes(
    publish_tokens=64_000_000,
    ingest_prompts=10_000,
    index_mebibytes=2048,
    restart_bytes=1_000_000_000,
    hold_seconds=60.0,
    fetch_seconds=10.0,
)


@dataclass(slots=True)
class Result:
    """The figures; None where not measured."""

    publish_tokens_per_core_second: float | None = None
    """Tokens made durable for each second of the server's CPU time; not counting indexes."""
    publish_tokens_per_second: float | None = None
    """The same for each second of wall time, with one client."""
    store_bytes_per_token: float | None = None
    fetch_bytes_per_second: float | None = None
    """Over loopback TCP, median over the fetches, wall time."""
    fetch_checked_bytes_per_second: float | None = None
    """The same, until the client has checked the index and can use it."""
    fetch_bytes_per_client_core_second: float | None = None
    """Bytes taken in for each second of the client's CPU time."""
    fetch_bytes_per_core_second: float | None = None
    """Bytes sent for each second of the server's CPU time."""
    fetch_index_bytes: int | None = None
    ingest_rss_bytes: int | None = None
    """Most resident memory of the server while it takes and indexes `ingest_tokens`."""
    ingest_tokens: int | None = None
    ingest_budget_bytes: int | None = None
    ingest_base_bytes: int | None = None
    """Resident memory of the same server before anything was published."""
    restart_seconds: float | None = None
    """From the start of a process on a history that a killed one left to its answer that it serves."""
    restart_history_bytes: int | None = None
    streams: int | None = None
    streams_bytes: int | None = None
    """Resident memory while they are held, median."""
    streams_growth_bytes: int | None = None
    """By how much it grew while they were held: median of the last quarter less that of the first."""
    relay_ms_p99: float | None = None
    """From a sibling's token sent to usable on the other worker, in ms."""
    sizes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return asdict(self)


def measure(sizes: Sizes, parts: Sequence[str], groups: Sequence[Group], report: Report) -> Result:
    """Measure the named parts.

    Args:
        sizes: how much is sent.
        parts: of PARTS.
        groups: recorded groups for `publish`; empty = synthetic ones.
        report: is told what is measured now.
    """
    result = Result(sizes=asdict(sizes))
    for name in parts:
        report(name)
        PARTS[name](sizes, result, groups)
    return result


def measure_publish(sizes: Sizes, result: Result, groups: Sequence[Group]) -> None:
    """Publish into an empty durable store with one client, without building indexes."""
    if not groups:
        groups = [rpc_load.synthetic(n, 16, 1_000) for n in range(max(sizes.publish_tokens // 160_000, 1))]
    tokens = sum(group.num_tokens for group in groups)
    epochs = max(round(sizes.publish_tokens / tokens), 1)
    with _folder() as data, ServerProcess(data, "--build-ahead", "0", *_LIMITS) as server:
        with grpc.insecure_channel(server.address) as channel:
            publish = channel.stream_unary(_SERVICE + "PublishRollouts")
            _publish(publish, list(rpc_load.messages([rpc_load.synthetic(10**6, 4, 100)])))  # warm up
            before, wall, cpu = _store_bytes(data), 0.0, 0.0
            for epoch in range(epochs):
                encoded = list(rpc_load.messages(groups, epoch=epoch))
                started, used = time.perf_counter(), server.cpu_seconds()
                _publish(publish, encoded)
                wall, cpu = wall + time.perf_counter() - started, cpu + server.cpu_seconds() - used
        result.publish_tokens_per_core_second = epochs * tokens / max(cpu, 1e-9)
        result.publish_tokens_per_second = epochs * tokens / wall
        result.store_bytes_per_token = (_store_bytes(data) - before) / (epochs * tokens)


def measure_fetch(sizes: Sizes, result: Result, _groups: Sequence[Group]) -> None:
    """Fetch one prompt's index again and again, from memory, with one client on loopback TCP.

    In turns: taking the bytes in only, and making an index of them as a DraftSource does.
    """
    group = drifting(_INDEX_TOKENS).groups[0]
    keep_freed_memory()  # as a DraftSource does
    with _folder() as data, ServerProcess(data, *_LIMITS) as server, open_channel(server.address) as channel:
        _publish(channel.stream_unary(_SERVICE + "PublishRollouts"), list(rpc_load.messages([group])))
        fetch = open_fetch(channel)
        ask = index_pb2.FetchIndexRequest(run=common_pb2.Run(name=rpc_load.RUN))
        ask.prompts.add(prompt=rpc_load.prompt_message(group.prompt))
        for _ in range(3):
            size = sum(map(len, fetch(ask, timeout=60)))
        speeds, checked, total, used, own = [], [], 0, server.cpu_seconds(), 0.0
        deadline = time.perf_counter() + sizes.fetch_seconds
        while time.perf_counter() < deadline:
            started, before = time.perf_counter(), time.process_time()
            received = sum(map(len, fetch(ask, timeout=60)))
            speeds.append(received / (time.perf_counter() - started))
            own += time.process_time() - before
            started = time.perf_counter()
            for _, _, blob in assemble(fetch(ask, timeout=60), 1, size):
                assert blob is not None
                FrozenIndex.from_buffer(blob.data)
            checked.append(received / (time.perf_counter() - started))
            total += received
        used = server.cpu_seconds() - used
    result.fetch_index_bytes = size
    result.fetch_bytes_per_second = statistics.median(speeds)
    result.fetch_checked_bytes_per_second = statistics.median(checked)
    result.fetch_bytes_per_core_second = 2 * total / max(used, 1e-9)
    result.fetch_bytes_per_client_core_second = total / max(own, 1e-9)


def measure_ingest(sizes: Sizes, result: Result, _groups: Sequence[Group]) -> None:
    """Publish many prompts and let the server index them; note the most memory it takes."""
    flags = ("--index-memory", str(sizes.index_mebibytes), "--build-ahead", "0.2", *_LIMITS)
    with _folder() as data, ServerProcess(data, *flags) as server:
        result.ingest_base_bytes = server.memory()
        with _channel(server) as channel:
            publish = channel.stream_unary(_SERVICE + "PublishRollouts")
            for start in range(0, sizes.ingest_prompts, 100):
                some = range(start, min(start + 100, sizes.ingest_prompts))
                groups = [rpc_load.synthetic(n, 16, 1_000) for n in some]
                _publish(publish, list(rpc_load.messages(groups)))
        deadline = time.perf_counter() + 600.0
        while server.metrics()["redraft_waiting_builds"] and time.perf_counter() < deadline:
            time.sleep(0.1)
        result.ingest_rss_bytes = server.memory("VmHWM")
        result.ingest_tokens = sizes.ingest_prompts * 16_000
        result.ingest_budget_bytes = sizes.index_mebibytes << 20


def measure_restart(sizes: Sizes, result: Result, _groups: Sequence[Group]) -> None:
    """Kill a server that has a large history and start it again."""
    with _folder() as data:
        _fill(data, sizes.restart_bytes)
        seconds = []
        for epoch in range(1, 4):
            with ServerProcess(data) as server, _channel(server) as channel:
                seconds.append(server.start_seconds)
                # A write, so that the next start finds a write-ahead log.
                groups = [rpc_load.synthetic(n, 16, 1_000) for n in range(100)]
                publish = channel.stream_unary(_SERVICE + "PublishRollouts")
                _publish(publish, list(rpc_load.messages(groups, epoch=epoch)))
                server.kill()
        with ServerProcess(data) as server:
            seconds.append(server.start_seconds)
        result.restart_seconds = statistics.median(seconds[1:])
        result.restart_history_bytes = _store_bytes(data)


def measure_streams(sizes: Sizes, result: Result, _groups: Sequence[Group]) -> None:
    """Hold Draft streams whose requests come and go, as workers' do."""
    with _folder() as data, ServerProcess(data, "--build-ahead", "0", *_LIMITS) as server:
        groups = [rpc_load.synthetic(n, 4, 2_000) for n in range(64)]
        with _channel(server) as channel:
            _publish(channel.stream_unary(_SERVICE + "PublishRollouts"), list(rpc_load.messages(groups)))
        levels = asyncio.run(_hold(server, groups, sizes))
    quarter = max(len(levels) // 4, 1)
    result.streams, result.streams_bytes = sizes.streams, int(statistics.median(levels))
    result.streams_growth_bytes = int(
        statistics.median(levels[-quarter:]) - statistics.median(levels[:quarter])
    )


def measure_relayed(sizes: Sizes, result: Result, _groups: Sequence[Group]) -> None:
    """Let siblings on two workers hear of each other."""
    figures = measure_relay(sizes.relay_groups, seconds=sizes.relay_seconds)
    result.relay_ms_p99 = figures["relay_ms_p99"]


PARTS: dict[str, Callable[[Sizes, Result, Sequence[Group]], None]] = {
    "publish": measure_publish,
    "fetch": measure_fetch,
    "ingest": measure_ingest,
    "restart": measure_restart,
    "streams": measure_streams,
    "relay": measure_relayed,
}


class _Gate:
    """Opens once `expected` tasks have arrived at it."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.open = asyncio.Event()

    async def arrive(self) -> None:
        self._expected -= 1
        if not self._expected:
            self.open.set()
        await self.open.wait()


async def _hold(server: ServerProcess, groups: Sequence[Group], sizes: Sizes) -> list[int]:
    """Return the server's resident memory, sampled while the streams are open.

    A stream keeps finished groups for later siblings, up to a limit. So each first works through that many without
    a pause, and is held, at an engine's pace, once it cannot keep more: growth from there on would be a leak.
    """
    stop = asyncio.Event()
    # Python's gRPC takes new streams slowly while open ones keep it busy: first all are opened, then all are filled.
    opened, filled = _Gate(sizes.streams), _Gate(sizes.streams)

    async def work(stub: Any, number: int) -> None:
        call = stub()
        request = drafting_pb2.DraftRequest(run=common_pb2.Run(name=rpc_load.RUN))
        turn = 0
        while not stop.is_set():
            if turn == 1:
                await opened.arrive()
            elif turn == _FILLING_TURNS:
                await filled.arrive()
            group = groups[(number + turn) % len(groups)]
            request.open.add(id=turn, prompt=rpc_load.prompt_message(group.prompt))
            text = group.responses[turn % len(group.responses)]
            for at in range(0, len(text), 500):
                request.advance.add(id=turn, token_ids=tokens_to_bytes(text[at : at + 500]), horizon=8)
                await call.write(request)
                await call.read()
                request = drafting_pb2.DraftRequest()
                if turn >= _FILLING_TURNS:
                    await asyncio.sleep(0.25)
                if stop.is_set():
                    break
            request.close.append(turn)
            turn += 1
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass

    levels: list[int] = []
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = channel.stream_stream(
            _SERVICE + "Draft",
            request_serializer=drafting_pb2.DraftRequest.SerializeToString,
            response_deserializer=drafting_pb2.DraftResponse.FromString,
        )
        tasks = [asyncio.create_task(work(stub, number)) for number in range(sizes.streams)]
        # A stream that fails ends its task, and the others would wait for it for ever.
        await asyncio.wait(
            [asyncio.create_task(filled.open.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED
        )
        if not filled.open.is_set():
            await asyncio.gather(*(task for task in tasks if task.done()))
        deadline = time.perf_counter() + sizes.hold_seconds
        while time.perf_counter() < deadline:
            await asyncio.sleep(sizes.hold_seconds / 40)
            levels.append(server.memory())
        stop.set()
        await asyncio.gather(*tasks)
    return levels


def _publish(publish: Any, encoded: list[bytes]) -> None:
    answer = publish_pb2.PublishRolloutsResponse.FromString(publish(iter(encoded), timeout=600))
    refused = [outcome.message for outcome in answer.outcomes if outcome.code]
    if refused:
        raise RuntimeError(f"the server refused what the benchmark published: {refused[0]}")


def _fill(data: Path, nbytes: int) -> None:
    """Write a history of at least that size, of random tokens that hardly compress."""
    random = np.random.default_rng(0)
    store = SqliteHistory(data)
    try:
        run = store.open_run(rpc_load.RUN, Vocabulary())
        number = 0
        while store.nbytes < 1.1 * nbytes:  # the write-ahead log shrinks when it closes
            batch = []
            for _ in range(64):
                prompt = np.array([number % 20_000, 7], dtype=np.int32)
                texts = random.integers(0, 150_000, (16, 1_000)).astype(np.int32)
                responses = [ResponseRecord(i, text, 1.0) for i, text in enumerate(texts)]
                step = 10 + number // 20_000
                batch.append(GroupRecord(prompt_key(prompt), prompt, step, step, False, "", responses))
                number += 1
            store.append(run, batch).result()
    finally:
        store.close()


def _store_bytes(data: Path) -> int:
    return sum(path.stat().st_size for path in data.glob("history.sqlite*") if not path.name.endswith("-shm"))


def _channel(server: ServerProcess) -> grpc.Channel:
    return grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", 64 << 20)])


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="redraft-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
