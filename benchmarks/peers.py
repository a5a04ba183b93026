"""The peers that `redraft bench index` measures beside redraft, where the machine has them."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from redraft.benchmarks.groups import Group, Int32Array, Trace
from redraft.benchmarks.index import HORIZON, SLICE, Engine, Result, split, spread

ARCTIC_DEPTH = 24  # vLLM's default for its `suffix` method
ARCTIC_STEPS = 12
BRUTE_TOKENS = 600
BRUTE_DRAFTS = 40


def find_arctic() -> ModuleType | None:
    """Return arctic-inference's suffix tree, or None where it is not installed."""
    try:
        from arctic_inference.suffix_decoding import _C
    except ImportError:
        return None
    return _C


def find_reference() -> ModuleType | None:
    """Return tests/reference.py, which only a source checkout has."""
    path = Path(__file__).resolve().parent.parent / "tests" / "reference.py"
    spec = importlib.util.spec_from_file_location("redraft_reference", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure_arctic(arctic: ModuleType, trace: Trace) -> Result:
    """Measure arctic-inference 0.3's `SuffixTree` at vLLM's depth, called as its Python cache calls it.

    Its draft matches the context anew at every step, so a draft's time includes what redraft calls advance; its
    trees hold live and finished responses alike, so building and appending are the same thing.
    """
    seconds = 0.0
    size = 0
    drafts: list[float] = []
    for group in trace.groups:
        tree = arctic.SuffixTree(ARCTIC_DEPTH)
        start = time.thread_time()
        for number, response in enumerate(group.responses):
            tree.extend_ndarray(number, response)
        seconds += time.thread_time() - start
        size += tree.estimate_memory()
        history, live = split(group)
        tree = arctic.SuffixTree(ARCTIC_DEPTH)
        for number, response in enumerate(history or group.responses):
            tree.extend_ndarray(number, response)
        for response in live[:4]:
            for end in range(1, min(len(response), 200), 3):
                context = response[max(0, end - ARCTIC_DEPTH) : end]
                start = time.perf_counter()
                tree.speculate_ndarray(context, HORIZON, 1.0, 0.0, 0.1, False)
                drafts.append(time.perf_counter() - start)
    return Result(
        trace.name,
        trace.num_tokens,
        name="arctic-inference",
        frozen_bytes_per_token=size / trace.num_tokens,
        build_us_per_token=seconds / trace.num_tokens * 1e6,
        live_append_us_per_token=seconds / trace.num_tokens * 1e6,
        live_bytes_per_token=size / trace.num_tokens,
        draft_us_p50=float(np.percentile(drafts, 50)) * 1e6 if drafts else np.nan,
        draft_us_p99=float(np.percentile(drafts, 99)) * 1e6 if drafts else np.nan,
        step512_ms_p50=arctic_step(arctic, trace) * 1e3,
    )


def arctic_step(arctic: ModuleType, trace: Trace) -> float:
    """Return the median CPU seconds of one step of 512 requests: a tree per prompt, appends included.

    A request that starts over does so as another sequence of the same tree, which has no other place for it.
    """
    requests = spread(trace)
    trees = []
    for group in trace.groups:
        tree = arctic.SuffixTree(ARCTIC_DEPTH)
        for number, response in enumerate(split(group)[0] or group.responses):
            tree.extend_ndarray(number, response)
        trees.append(tree)
    engine = Engine([text for _, text in requests])
    texts: list[list[int]] = [[] for _ in requests]
    drafts: list[list[int]] = [[] for _ in requests]
    sequences = [1_000_000 + row for row in range(len(requests))]
    seconds = []
    for _ in range(ARCTIC_STEPS):
        for row in engine.restart():
            sequences[row] += len(requests)
            texts[row], drafts[row] = [], []
        new = [engine.emit(row, drafts[row]) for row in range(len(requests))]
        start = time.thread_time()
        for row, (number, _) in enumerate(requests):
            tree = trees[number]
            tree.extend(sequences[row], new[row])
            texts[row].extend(new[row])
            draft = tree.speculate(texts[row][-ARCTIC_DEPTH:], HORIZON, 1.0, 0.0, 0.1, False)
            drafts[row] = draft.token_ids
        seconds.append(time.thread_time() - start)
    return float(np.median(seconds[2:]))


def measure_reference(reference: ModuleType, trace: Trace) -> Result:
    """Measure the brute-force twins on the beginning of the largest group; they are quadratic and worse."""
    group = shorten(max(trace.groups, key=lambda g: g.num_tokens))
    texts = [response.tolist() for response in group.responses]
    tokens = group.num_tokens
    start = time.thread_time()
    live = reference.LiveReference([])
    for text in texts:
        sequence = live.add_sequence()
        for at in range(0, len(text), SLICE):
            live.append(sequence, text[at : at + SLICE])
    append = time.thread_time() - start
    frozen = reference.FrozenReference(texts)
    drafts = []
    for end in range(1, min(BRUTE_DRAFTS, len(texts[-1]))):
        start = time.thread_time()
        frozen.continuation(tuple(texts[-1][:end]), HORIZON)
        drafts.append(time.thread_time() - start)
    return Result(
        f"{trace.name}, first {tokens} tokens",
        tokens,
        name="tests/reference.py",
        live_append_us_per_token=append / tokens * 1e6,
        draft_us_p50=float(np.percentile(drafts, 50)) * 1e6,
        draft_us_p99=float(np.percentile(drafts, 99)) * 1e6,
    )


def shorten(group: Group) -> Group:
    """Return the group's first tokens."""
    taken: list[Int32Array] = []
    left = BRUTE_TOKENS
    for response in group.responses:
        if left == 0:
            break
        taken.append(response[: min(left, BRUTE_TOKENS // 4)])
        left -= len(taken[-1])
    return replace(group, responses=taken)


def measure_peers(trace: Trace, report: Callable[[str], None]) -> list[Result]:
    """Measure the peers that are there."""
    results = []
    if (arctic := find_arctic()) is not None:
        report("arctic-inference")
        results.append(measure_arctic(arctic, trace))
    if (reference := find_reference()) is not None:
        report("tests/reference.py")
        results.append(measure_reference(reference, trace))
    return results
