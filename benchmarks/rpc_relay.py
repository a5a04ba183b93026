"""How fast a sibling's tokens reach the other workers through the live relay. Everything runs in its own process."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]

TICK = 1e-5
"""Resolution of the times that travel as token ids, in seconds."""
WARM_UP = 1.0
"""Seconds at the start that are not counted: connecting, joining, first messages."""


class TimedIndex:
    """Takes the place of a live index: adds tokens to a real one, then notes how old each is.

    A token's id is the time at which it was handed to the relay, in ticks of the machine's monotonic clock.
    """

    def __init__(self, prompt: Int32Array, ages: list[Int32Array], since: float) -> None:
        from redraft._core import LiveIndex

        self._live = LiveIndex(prompt)
        self._ages = ages
        self._since = ticks(since)

    def add_sequence(self, token_ids: Int32Array | None = None) -> int:
        """Start a sequence."""
        return self._live.add_sequence(token_ids)

    def append(self, sequence: int, token_ids: Int32Array) -> None:
        """Append and note the ages, in ticks."""
        self._live.append(sequence, token_ids)
        if token_ids[0] >= self._since:
            self._ages.append(np.int32(ticks(time.monotonic())) - token_ids)


def ticks(at: float) -> int:
    """Return a time as a token id."""
    return int(at / TICK) % (2**31 - 2)


def measure_relay(
    groups: int = 64,
    siblings: int = 16,
    tokens_per_second: float = 50.0,
    seconds: float = 10.0,
    *,
    workers: int = 2,
) -> dict[str, Any]:
    """Relay `groups` x `siblings` responses, spread evenly over worker processes, through a server on loopback.

    Every worker makes `tokens_per_second` steps a second; each brings one token for each of its siblings. A token is
    usable once it is in the other worker's live index.

    Args:
        groups: groups, all served by all workers.
        siblings: siblings of each group, a multiple of `workers`.
        tokens_per_second: of each sibling.
        seconds: how long it is measured, after a second of warming up.
        workers: worker processes, >= 2.

    Returns:
        relay_ms_p50, relay_ms_p99, relay_ms_max: from token sent to token usable, in ms; relayed_tokens (counted at
        the receivers) and expected_tokens; dropped_tokens, gaps; steps_late: share of the workers' steps that began
        more than a step too late (the machine is too slow for the load); server_cores, worker_cores: CPU seconds per
        second of the server and of all workers.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="redraft-bench-") as folder:
        ready = context.SimpleQueue()
        stop = context.Event()
        server = context.Process(target=_serve, args=(folder, ready, stop))
        server.start()
        try:
            address = ready.get()
            results = context.SimpleQueue()
            barrier = context.Barrier(workers)  # all begin once all have started
            processes = [
                context.Process(
                    target=_work,
                    args=(
                        address,
                        barrier,
                        i,
                        groups,
                        siblings // workers,
                        tokens_per_second,
                        seconds,
                        results,
                    ),
                )
                for i in range(workers)
            ]
            for process in processes:
                process.start()
            told = [results.get() for _ in processes]
            for process in processes:
                process.join()
        finally:
            stop.set()
            server_cpu = ready.get()
            server.join()
    ages = np.concatenate([each["ages"] for each in told]) * TICK * 1e3
    if not len(ages):
        ages = np.array([np.inf])
    own = groups * (siblings // workers) * workers
    return {
        "relay_ms_p50": float(np.percentile(ages, 50)),
        "relay_ms_p99": float(np.percentile(ages, 99)),
        "relay_ms_max": float(ages.max()),
        "relayed_tokens": len(ages),
        "expected_tokens": int(own * tokens_per_second * seconds) * (workers - 1),
        "dropped_tokens": sum(each["dropped"] for each in told),
        "gaps": sum(each["gaps"] for each in told),
        "steps_late": sum(each["late"] for each in told) / sum(each["steps"] for each in told),
        "server_cores": server_cpu / (seconds + WARM_UP),
        "worker_cores": sum(each["cpu"] for each in told) / (seconds + WARM_UP),
    }


def _serve(folder: str, ready: Any, stop: Any) -> None:
    from redraft.server import ServerConfig, create_server

    server, _ = create_server(ServerConfig(address="127.0.0.1:0", data_directory=Path(folder)))
    server.start()
    before = _cpu()
    ready.put(server.address)
    stop.wait()
    ready.put(_cpu() - before)
    server.stop(0.0)


def _work(
    address: str,
    barrier: Any,
    worker: int,
    groups: int,
    siblings: int,
    tokens_per_second: float,
    seconds: float,
    results: Any,
) -> None:
    from redraft.client import Relay

    relay = Relay([address], run="bench")
    ages: list[Int32Array] = []
    count = groups * siblings
    barrier.wait()
    start = time.monotonic()
    begin = start + worker / tokens_per_second / 8
    for group in range(groups):
        prompt = np.arange(group, group + 200, dtype=np.int32)
        live = cast(Any, TimedIndex(prompt, ages, start + WARM_UP))
        for sibling in range(siblings):
            relay.begin(group * siblings + sibling, prompt, live)
    handles = np.arange(count, dtype=np.int32)
    offsets = np.arange(count + 1, dtype=np.int32)
    late = step = 0
    cpu = 0.0
    while (due := begin + step / tokens_per_second) < start + WARM_UP + seconds:
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        if step == 0:
            cpu = _cpu()
        late += wait < -1 / tokens_per_second
        relay.advance(handles, np.full(count, ticks(time.monotonic()), np.int32), offsets)
        step += 1
    time.sleep(0.5)
    stats = relay.stats()
    told = {
        "ages": np.concatenate(ages) if ages else np.zeros(0, np.int32),
        "dropped": stats.dropped_tokens + stats.missed_tokens,
        "gaps": stats.gaps,
        "late": late,
        "steps": step,
        "cpu": _cpu() - cpu,
    }
    time.sleep(1.0)  # others still receive
    relay.close()
    results.put(told)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
