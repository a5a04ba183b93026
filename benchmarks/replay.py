"""The replay: recorded responses come out of an engine that drafts, step by step.

Replaying a recorded sample is an unbiased sample of acceptance: accepting a one-hot draft d with probability
p(d) has the same law as drawing x from p and accepting when x = d.

The engine's conventions: requests are admitted in the order of prompts, siblings together, as others end. The
prefill emits a response's first token, without a draft; tokens_per_step divides all tokens of the responses by
the decode steps after it, as published figures do. All drafts of a step are made before any of its tokens are
known to a sibling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from redraft.benchmarks.traces import Int32Array, Response, Trace

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
BINS = 10
POSITION_CLASSES = (0, 16, 64, 256, 1024, 4096)


@dataclass
class Rows:
    """Drafts of one step, ragged: row i is `token_ids[offsets[i]:offsets[i + 1]]`."""

    token_ids: Int32Array
    offsets: Int32Array
    probabilities: Float32Array | None = None
    """Of each token's acceptance given that all before it were accepted."""
    sources: npt.NDArray[np.uint8] | None = None


class Proposer(Protocol):
    """Something that drafts."""

    def start_epoch(self, prompts: Sequence[Int32Array], history: list[list[Response]]) -> None:
        """Begin an epoch; `history` holds the epochs before it, oldest first."""

    def open(self, response: Response) -> int:
        """Admit a request whose first token is known; returns its handle. Must not look further than that."""

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Take the tokens that came since the last step and draft at most `horizons[i]` for each request."""

    def close(self, request: int) -> None:
        """Drop a request that ended."""


@dataclass
class Figures:
    """What one epoch's replay counted."""

    epoch: int
    tokens: int = 0
    requests: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    steps_with_draft: int = 0
    seconds: float = 0.0
    draft_us: list[float] = field(default_factory=list)
    """Draft time of each engine step divided by its requests, in microseconds."""
    reliability: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, BINS)))
    """By bin of predicted survival: drafted tokens, their predicted survivals, the accepted of them."""
    by_source: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 8), np.int64))
    """Drafted and accepted, by source."""
    by_position: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((4, len(POSITION_CLASSES)), np.int64)
    )
    """Steps, emitted, drafted, accepted, by class of position in the response."""

    def result(self) -> dict[str, float | int | list[float] | dict[str, list[int]]]:
        """Return the figures by their names in `--json`."""
        steps = max(1, self.steps)
        drafted, predicted, accepted = self.reliability
        error = float(np.abs(predicted - accepted).sum() / max(1.0, drafted.sum()))
        bins = np.maximum(drafted, 1)
        return {
            "epoch": self.epoch,
            "tokens_per_step": self.tokens / steps,
            "drafted_per_step": self.drafted / steps,
            "accepted_per_step": self.accepted / steps,
            "acceptance_rate": self.accepted / max(1, self.drafted),
            "coverage": self.steps_with_draft / steps,
            "steps_without_draft": 1 - self.steps_with_draft / steps,
            "draft_us_p50": float(np.median(self.draft_us)) if self.draft_us else 0.0,
            "calibration_error": error,
            "decode_tokens_per_step": (self.tokens - self.requests) / steps,
            "tokens": self.tokens,
            "steps": self.steps,
            "requests": self.requests,
            "seconds": self.seconds,
            "reliability_predicted": (predicted / bins).tolist(),
            "reliability_observed": (accepted / bins).tolist(),
            "reliability_count": drafted.tolist(),
            "by_source": {
                name: self.by_source[:, i].tolist()
                for i, name in enumerate(("none", "history", "live", "shared"))
            },
            "by_position": {
                f"{start}+": self.by_position[:, i].tolist() for i, start in enumerate(POSITION_CLASSES)
            },
        }


def replay(
    trace: Trace,
    proposer: Proposer,
    *,
    concurrency: int = 256,
    horizon: int = 32,
    replay_prompts: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Figures]:
    """Replay every epoch, each with those before it as history.

    Args:
        trace: the recorded responses.
        proposer: what drafts.
        concurrency: most requests at a time, > 0.
        horizon: most draft tokens for a request and step, >= 0.
        replay_prompts: replay the first so many prompts only; the history is of all. None: all.
        progress: called with the number of tokens of each step.
    """
    epochs = trace.epochs()
    figures = []
    for number, epoch in enumerate(epochs):
        chosen = [r for r in epoch if replay_prompts is None or r.prompt < replay_prompts]
        chosen.sort(key=lambda r: r.prompt)
        began = time.perf_counter()
        proposer.start_epoch(trace.prompts, epochs[:number])
        result = Figures(epoch[0].epoch if epoch else number)
        replay_epoch(chosen, proposer, concurrency, horizon, result, progress)
        result.seconds = time.perf_counter() - began
        figures.append(result)
    return figures


Watch = Callable[[Rows, Int64Array, Callable[[Rows], Int64Array]], None]
"""Called after each step with its drafts, how many tokens of each row were accepted, and a function that tells the
same of other drafts."""


def replay_epoch(
    responses: list[Response],
    proposer: Proposer,
    concurrency: int,
    horizon: int,
    result: Figures,
    progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
) -> None:
    """Replay responses, admitted in their order, and count into `result`."""
    texts = [response.token_ids for response in responses]
    truth = np.concatenate([*texts, np.full(horizon + 1, -2, np.int32)])
    ends = np.cumsum([text.size for text in texts])
    starts = ends - np.asarray([text.size for text in texts])
    result.tokens = int(ends[-1]) if len(ends) else 0
    result.requests = len(texts)
    empty = np.empty(0, np.int32)
    handles = empty
    number = np.empty(0, np.int64)  # of the response that each request replays
    at = np.empty(0, np.int64)  # place in `truth` of the next token
    new, offsets = empty, np.zeros(1, np.int32)
    waiting = 0
    while waiting < len(texts) or number.size:
        admitted: list[int] = []
        while waiting < len(texts) and number.size + len(admitted) < concurrency:
            if texts[waiting].size > 1:
                admitted.append(waiting)
            waiting += 1
        if admitted:
            opened = [proposer.open(responses[i]) for i in admitted]
            handles = np.concatenate([handles, np.asarray(opened, np.int32)])
            number = np.concatenate([number, np.asarray(admitted)])
            at = np.concatenate([at, starts[admitted] + 1])
            offsets = np.concatenate([offsets, np.full(len(admitted), offsets[-1], np.int32)])
        if not number.size:
            break
        left = ends[number] - at
        horizons = np.full(number.size, horizon, np.int32)
        began = time.perf_counter()
        rows = proposer.step(handles, new, offsets, horizons)
        result.draft_us.append((time.perf_counter() - began) * 1e6 / number.size)
        accepted = _verify(rows, truth, at, left)
        if getattr(proposer, "knows_the_truth", False):
            rows = _trim(rows, accepted)
        if watch is not None:
            watch(rows, accepted, partial(_verify, truth=truth, at=at, left=left))
        emitted = np.minimum(accepted + 1, left)
        _count(result, rows, accepted, emitted, at - starts[number])
        offsets = np.zeros(number.size + 1, np.int32)
        np.cumsum(emitted, out=offsets[1:])
        places = np.repeat(at - offsets[:-1], emitted) + np.arange(offsets[-1])
        new = truth[places]
        at = at + emitted
        if progress is not None:
            progress(int(offsets[-1]))
        ended = at >= ends[number]
        if ended.any():
            # Its last tokens are told too: siblings draft from them.
            proposer.step(handles, new, offsets, np.zeros(number.size, np.int32))
            for handle in handles[ended]:
                proposer.close(int(handle))
            stay = ~ended
            handles, number, at = handles[stay], number[stay], at[stay]
            new, offsets = empty, np.zeros(number.size + 1, np.int32)


def _verify(
    rows: Rows, truth: Int32Array, at: npt.NDArray[np.int64], left: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return how many leading tokens of each row are the recorded ones."""
    lengths = np.diff(rows.offsets)
    if not rows.token_ids.size:
        return np.zeros(len(lengths), np.int64)
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(rows.token_ids.size) - np.repeat(rows.offsets[:-1], lengths)
    inside = place < left[row]
    wrong = ~(inside & (truth[np.minimum(at[row] + place, truth.size - 1)] == rows.token_ids))
    before = np.concatenate([[0], np.cumsum(wrong)])
    right = before[1:] == before[rows.offsets[:-1]][row]
    return np.bincount(row[right], minlength=len(lengths))


def _trim(rows: Rows, accepted: npt.NDArray[np.int64]) -> Rows:
    """Return only what is accepted: the drafts of an oracle."""
    place = np.arange(rows.token_ids.size) - np.repeat(rows.offsets[:-1], np.diff(rows.offsets))
    kept = place < np.repeat(accepted, np.diff(rows.offsets))
    offsets = np.zeros_like(rows.offsets)
    np.cumsum(accepted, out=offsets[1:])
    return Rows(rows.token_ids[kept], offsets, None, rows.sources)


def _count(
    result: Figures,
    rows: Rows,
    accepted: npt.NDArray[np.int64],
    emitted: npt.NDArray[np.int64],
    position: npt.NDArray[np.int64],
) -> None:
    lengths = np.diff(rows.offsets)
    result.steps += lengths.size
    result.drafted += int(lengths.sum())
    result.accepted += int(accepted.sum())
    result.steps_with_draft += int((lengths > 0).sum())
    classes = np.searchsorted(POSITION_CLASSES, position, side="right") - 1
    for i, values in enumerate((np.ones_like(emitted), emitted, lengths, accepted)):
        result.by_position[i] += np.bincount(classes, weights=values, minlength=len(POSITION_CLASSES)).astype(
            np.int64
        )
    if rows.sources is not None:
        for i, values in enumerate((lengths, accepted)):
            result.by_source[i] += np.bincount(rows.sources, weights=values, minlength=8).astype(np.int64)
    if rows.probabilities is None or not rows.token_ids.size:
        return
    row = np.repeat(np.arange(lengths.size), lengths)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(rows.probabilities, 1e-9)))])
    survival = np.exp(logs[1:] - logs[rows.offsets[:-1]][row])
    right = np.arange(row.size) - rows.offsets[:-1][row] < accepted[row]
    bins = np.clip((survival * BINS).astype(np.int64), 0, BINS - 1)
    for i, weights in enumerate((np.ones_like(survival), survival, right.astype(np.float64))):
        result.reliability[i] += np.bincount(bins, weights=weights, minlength=BINS)
