"""`redraft bench index`: size and speed of the indexes, side by side with their peers.

Times are CPU seconds of the calling thread, so that a busy machine disturbs them less; what is timed runs on one
core, except for the steps on two threads, whose times are wall time. What else goes on can only make them longer,
so building and appending take the least of a few runs, drafts and steps the run with the least median. Opening is the
median of many, by the wall clock.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from redraft import Drafter, FrozenIndex, LiveIndex
from redraft._core import time_drafts
from redraft.benchmarks.groups import Group, Int32Array, Trace, flatten

HORIZON = 16
STEP_REQUESTS = 512
STEPS = 80
RUNS = 3
THREADS = 2
SIBLINGS = 16
SLICE = 4  # tokens appended at a time, about what a step brings
REBUILDS = 1_000
REBUILD_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one trace; NaN where not measured."""

    trace: str
    tokens: int
    frozen_bytes_per_token: float = np.nan
    build_us_per_token: float = np.nan
    live_append_us_per_token: float = np.nan
    live_bytes_per_token: float = np.nan
    draft_us_p50: float = np.nan
    draft_us_p99: float = np.nan
    step512_ms_p50: float = np.nan
    step512_texts: float = np.nan
    """How many of the 512 requests write different texts; others repeat them at the same time, which is cheaper."""
    rebuild_growth_bytes: float = np.nan
    open_us: float = np.nan
    open_verified_us: float = np.nan
    blob_bytes: float = np.nan
    tokens_per_step: float = np.nan
    step512_blend_ms_p50: float = np.nan
    tokens_per_step_blend: float = np.nan
    step512_threads_ms_p50: float = np.nan
    step512_blend_threads_ms_p50: float = np.nan
    instructions_per_request_step: float = np.nan
    name: str = "redraft"

    def to_json(self) -> dict[str, object]:
        """Return the figures, None for what was not measured."""
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in asdict(self).items()}


def cpu_seconds(work: Callable[[], object], repeats: int = RUNS) -> float:
    """Return the least CPU time of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best


def split(group: Group) -> tuple[list[Int32Array], list[Int32Array]]:
    """Return (history, live): the last 16 responses, or the last half of fewer, are replayed against the others."""
    count = min(SIBLINGS, len(group.responses) // 2)
    at = len(group.responses) - count
    return group.responses[:at], group.responses[at:]


def build(responses: Sequence[Int32Array]) -> FrozenIndex:
    """Build the frozen index of responses."""
    return FrozenIndex.build(*flatten(responses))


def grow(group: Group) -> LiveIndex:
    """Grow a live index: all responses side by side, a few tokens at a time, 16 at once."""
    live = LiveIndex(group.prompt)
    for first in range(0, len(group.responses), SIBLINGS):
        running = [(live.add_sequence(), response) for response in group.responses[first : first + SIBLINGS]]
        for at in range(0, max(len(response) for _, response in running), SLICE):
            for sequence, response in running:
                if at < len(response):
                    live.append(sequence, response[at : at + SLICE])
    return live


def append_overhead(group: Group) -> float:
    """Return the CPU time of `grow`'s loop itself: Python's calls, with nothing to append."""
    nothing = np.zeros(0, dtype=np.int32)
    live = LiveIndex(nothing)
    sequence = live.add_sequence()
    calls = sum(-(-len(response) // SLICE) for response in group.responses)
    some = group.responses[0]

    def call() -> None:
        for _ in range(calls):
            live.append(sequence, some[0:0])

    return cpu_seconds(call, 1)


class Engine:
    """Stands in for the inference engine: emits the recorded tokens, as many as the last draft got right plus one.

    A request that has ended starts over, so that the batch stays full.
    """

    def __init__(self, texts: Sequence[Int32Array]) -> None:
        self._texts = [text.tolist() for text in texts]
        self._at = [0] * len(texts)

    def restart(self) -> list[int]:
        """Start the requests over that have ended, and return them."""
        ended = [row for row, text in enumerate(self._texts) if self._at[row] >= len(text)]
        for row in ended:
            self._at[row] = 0
        return ended

    def emit(self, row: int, draft: Sequence[int]) -> list[int]:
        """Return the tokens that request `row` emits after this draft."""
        text, at = self._texts[row], self._at[row]
        end = at
        for token in draft:
            if end + 1 >= len(text) or text[end] != token:
                break
            end += 1
        self._at[row] = end + 1
        return text[at : end + 1]


def spread(trace: Trace, count: int = STEP_REQUESTS) -> list[tuple[int, Int32Array]]:
    """Return, for each of `count` requests, its group's number and its text; siblings stand side by side."""
    lives = [split(group)[1] or group.responses for group in trace.groups]
    requests: list[tuple[int, Int32Array]] = []
    sample = 0
    while len(requests) < count:
        for number, live in enumerate(lives):
            requests.append((number, live[sample % len(live)]))
        sample += 1
    return sorted(requests[:count], key=lambda request: request[0])


class Batch:
    """Requests of a drafter. One that starts over does so as another group's would: in a live index of its own time."""

    def __init__(self, drafter: Drafter, trace: Trace, numbers: Sequence[int]) -> None:
        self._drafter = drafter
        self._groups = trace.groups
        self._histories = [build(split(group)[0] or group.responses) for group in trace.groups]
        self._numbers = numbers
        self._rounds = [-1] * len(numbers)
        self._lives: dict[tuple[int, int], LiveIndex] = {}
        self.handles = np.zeros(len(numbers), dtype=np.int32)
        for row in range(len(numbers)):
            self.open(row)

    def open(self, row: int) -> None:
        """Open the request of a row, in place of the one that was there."""
        number = self._numbers[row]
        if self._rounds[row] >= 0:
            self._drafter.close(int(self.handles[row]))
        self._rounds[row] += 1
        place = number, self._rounds[row]
        if place not in self._lives:
            self._lives[place] = LiveIndex(self._groups[number].prompt)
        self.handles[row] = self._drafter.open(self._lives[place], history=self._histories[number])


def measure_step(trace: Trace, policy: str, threads: int = 1) -> tuple[float, float]:
    """Return the median time of one step of 512 requests through Python, and tokens per request and step.

    "longest" is what the indexes cost, "blend" the whole policy. CPU time with one thread, wall time with more.
    Opening requests is not part of a step.
    """
    drafter = Drafter(policy=policy, num_threads=threads)
    clock = time.thread_time if threads == 1 else time.perf_counter
    requests = spread(trace)
    engine = Engine([text for _, text in requests])
    batch = Batch(drafter, trace, [number for number, _ in requests])
    drafts: list[list[int]] = [[] for _ in requests]
    horizons = np.full(len(requests), HORIZON, dtype=np.int32)
    seconds = []
    for _ in range(STEPS):
        for row in engine.restart():
            batch.open(row)
            drafts[row] = []
        new = [engine.emit(row, drafts[row]) for row in range(len(requests))]
        tokens = np.array([token for row in new for token in row], dtype=np.int32)
        offsets = np.cumsum([0, *map(len, new)], dtype=np.int32)
        start = clock()
        drafted = drafter.step(batch.handles, tokens, offsets, horizons)
        seconds.append(clock() - start)
        flat, bounds = drafted.token_ids.tolist(), drafted.offsets.tolist()
        drafts = [flat[bounds[i] : bounds[i + 1]] for i in range(len(requests))]
    stats = drafter.stats()
    return float(np.median(seconds[5:])), float(stats["emitted"][0] / stats["steps"][0])


def measure_drafts(trace: Trace) -> npt.NDArray[np.float64]:
    """Return the seconds of every advance + draft of 16, timed inside the core."""
    runs: list[list[npt.NDArray[np.float64]]] = [[] for _ in range(RUNS)]
    for group in trace.groups:
        history, live = split(group)
        index = build(history or group.responses)
        responses = flatten(live or group.responses)
        for run in runs:
            run.append(time_drafts(index, *responses, horizon=HORIZON))
    return min((np.concatenate(run) for run in runs), key=np.median)


def resident_bytes() -> int:
    """Return the process's resident memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def measure_rebuilds(trace: Trace) -> float:
    """Return by how many bytes memory grows over 1,000 rebuilds of one prompt, after 100 to warm up."""
    largest = max(trace.groups, key=lambda group: group.num_tokens)
    tokens, offsets = flatten(largest.responses)
    count = max(1, int(np.searchsorted(offsets, REBUILD_TOKENS, "right")) - 1)
    tokens = tokens[: min(int(offsets[count]), REBUILD_TOKENS)].copy()
    offsets = np.minimum(offsets[: count + 1], len(tokens))
    held = FrozenIndex.build(tokens, offsets)
    for _ in range(100):
        held = FrozenIndex.build(tokens, offsets)
    gc.collect()
    before = resident_bytes()
    for _ in range(REBUILDS):
        held = FrozenIndex.build(tokens, offsets)
    after = resident_bytes()
    del held
    return float(after - before)


def measure_open(blob: bytes, *, verify: bool) -> float:
    """Return the median seconds of opening a blob."""
    seconds = []
    for _ in range(200):
        start = time.perf_counter()
        FrozenIndex.from_buffer(blob, verify=verify)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def measure(trace: Trace, report: Callable[[str], None] = lambda _: None) -> Result:
    """Measure everything on one trace; `report` is told what runs."""
    tokens = trace.num_tokens
    result = Result(trace.name, tokens)
    report("build")
    seconds = float(sum(cpu_seconds(partial(build, group.responses)) for group in trace.groups))
    indexes = [build(group.responses) for group in trace.groups]
    largest = max(indexes, key=lambda index: index.nbytes)
    result = replace(
        result,
        build_us_per_token=seconds / tokens * 1e6,
        frozen_bytes_per_token=sum(index.nbytes for index in indexes) / tokens,
        open_us=measure_open(largest.to_bytes(), verify=False) * 1e6,
        open_verified_us=measure_open(largest.to_bytes(), verify=True) * 1e6,
        blob_bytes=float(largest.nbytes),
    )
    del indexes, largest
    report("append")
    seconds = 0.0
    live_bytes = 0
    for group in trace.groups:
        kept: list[LiveIndex] = []
        seconds += cpu_seconds(lambda: kept.append(grow(group)), 2)  # noqa: B023 called at once
        seconds -= append_overhead(group)
        live_bytes += kept[-1].nbytes
    prompts = sum(len(group.prompt) for group in trace.groups)
    result = replace(
        result,
        live_append_us_per_token=seconds / (tokens + prompts) * 1e6,
        live_bytes_per_token=live_bytes / (tokens + prompts),
    )
    report("draft")
    drafts = measure_drafts(trace)
    report("step of 512 requests")
    runs = [
        [measure_step(trace, policy, threads) for policy in ("longest", "blend") for threads in (1, THREADS)]
        for _ in range(RUNS)
    ]
    (step, emitted), (shared, _), (blend, emitted_blend), (blend_shared, _) = map(
        min, zip(*runs, strict=True)
    )
    report("rebuild")
    return replace(
        result,
        draft_us_p50=float(np.percentile(drafts, 50)) * 1e6,
        draft_us_p99=float(np.percentile(drafts, 99)) * 1e6,
        step512_ms_p50=step * 1e3,
        step512_texts=float(len({id(text) for _, text in spread(trace)})),
        tokens_per_step=emitted,
        step512_blend_ms_p50=blend * 1e3,
        tokens_per_step_blend=emitted_blend,
        step512_threads_ms_p50=shared * 1e3,
        step512_blend_threads_ms_p50=blend_shared * 1e3,
        rebuild_growth_bytes=measure_rebuilds(trace),
    )
