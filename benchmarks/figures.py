"""What a replay counts: by epoch, by position in the response, by source and by turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

BINS = 10
POSITION_CLASSES = (0, 16, 64, 256, 1024, 4096)
SOURCES = ("none", "history", "live", "shared")
COUNTS = ("steps", "emitted", "drafted", "accepted", "with_draft", "draft_us")
FLUSH_ROWS = 1 << 17


@dataclass
class Rows:
    """Drafts of one step, ragged: row i is `token_ids[offsets[i]:offsets[i + 1]]`."""

    token_ids: Int32Array
    offsets: Int32Array
    probabilities: Float32Array | None = None
    """Of each token's acceptance given that all before it were accepted."""
    sources: npt.NDArray[np.uint8] | None = None


def _slices(classes: int) -> Float64Array:
    return np.zeros((len(COUNTS), classes))


@dataclass
class Figures:
    """What one epoch's replay counted. Arrays named `by_...` have a row for each of `COUNTS`."""

    epoch: int
    tokens: int = 0
    requests: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    steps_with_draft: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    draft_us: list[float] = field(default_factory=list)
    """Time of drafting in each engine step divided by its requests, in microseconds."""
    reliability: Float64Array = field(default_factory=lambda: np.zeros((3, BINS)))
    """By bin of predicted survival: drafted tokens, their predicted survivals, the accepted of them."""
    by_source: Float64Array = field(default_factory=lambda: _slices(len(SOURCES)))
    by_position: Float64Array = field(default_factory=lambda: _slices(len(POSITION_CLASSES)))
    by_turn: Float64Array = field(default_factory=lambda: _slices(1))
    history_by_turn: Int64Array = field(default_factory=lambda: np.zeros(1, np.int64))
    """Steps that drafted from history."""

    def result(self) -> dict[str, Any]:
        """Return the figures by their names in `--json`."""
        steps = max(1, self.steps)
        drafted, predicted, accepted = self.reliability
        bins = np.maximum(drafted, 1)
        turns = self.by_turn.shape[1]
        return {
            "epoch": self.epoch,
            "tokens_per_step": self.tokens / steps,
            "drafted_per_step": self.drafted / steps,
            "accepted_per_step": self.accepted / steps,
            "acceptance_rate": self.accepted / max(1, self.drafted),
            "coverage": self.steps_with_draft / steps,
            "steps_without_draft": 1 - self.steps_with_draft / steps,
            "draft_us_p50": float(np.median(self.draft_us)) if self.draft_us else 0.0,
            "calibration_error": float(np.abs(predicted - accepted).sum() / max(1.0, drafted.sum())),
            "decode_tokens_per_step": (self.tokens - self.requests) / steps,
            "tokens": self.tokens,
            "steps": self.steps,
            "requests": self.requests,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "reliability_predicted": (predicted / bins).tolist(),
            "reliability_observed": (accepted / bins).tolist(),
            "reliability_count": drafted.tolist(),
            "by_source": {name: _described(self.by_source[:, i]) for i, name in enumerate(SOURCES)},
            "by_position": {
                f"{start}+": _described(self.by_position[:, i]) for i, start in enumerate(POSITION_CLASSES)
            },
            "by_turn": [
                _described(self.by_turn[:, i])
                | {"history_coverage": float(self.history_by_turn[i] / max(1.0, self.by_turn[0, i]))}
                for i in range(turns if turns > 1 else 0)
            ],
        }


def _described(counts: Float64Array) -> dict[str, float | int]:
    """Return what is said of a slice of steps; `tokens_per_step` counts the bonus token."""
    steps, emitted, drafted, accepted, with_draft, draft_us = counts.tolist()
    some = max(1.0, steps)
    return {
        "steps": int(steps),
        "tokens_per_step": emitted / some,
        "drafted_per_step": drafted / some,
        "accepted_per_step": accepted / some,
        "acceptance_rate": accepted / max(1.0, drafted),
        "coverage": with_draft / some,
        "steps_without_draft": 1 - with_draft / some if steps else 0.0,
        "draft_us": draft_us / some,
    }


class Tally:
    """Counts steps into `Figures`. Steps are put by and counted many at a time: numpy's calls cost more than rows.

    Args:
        figures: counted into.
        turns: number of turns, >= 1.
    """

    def __init__(self, figures: Figures, turns: int) -> None:
        self._figures = figures
        figures.by_turn = _slices(turns)
        figures.history_by_turn = np.zeros(turns, np.int64)
        self._steps: list[tuple[Rows, Int64Array, Int64Array, Int64Array, Int64Array, float]] = []
        self._rows = 0

    def add(
        self,
        rows: Rows,
        accepted: Int64Array,
        emitted: Int64Array,
        position: Int64Array,
        turn: Int64Array,
        draft_us: float,
    ) -> None:
        """Count a step. The arrays, shape (b,), must not change afterwards.

        Args:
            rows: its drafts.
            accepted: leading tokens of each row that are right.
            emitted: tokens that came for each request.
            position: tokens that each response had before.
            turn: number of each request's turn.
            draft_us: drafting's time for each request.
        """
        self._steps.append((rows, accepted, emitted, position, turn, draft_us))
        self._figures.draft_us.append(draft_us)
        self._rows += accepted.size
        if self._rows >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Count what was put by."""
        if not self._steps:
            return
        figures = self._figures
        drafts, accepted_of, emitted_of, positions, turns, times = zip(*self._steps, strict=True)
        self._steps, self._rows = [], 0
        lengths = np.concatenate([np.diff(rows.offsets) for rows in drafts])
        accepted, emitted = np.concatenate(accepted_of), np.concatenate(emitted_of)
        with_draft = lengths > 0
        figures.steps += lengths.size
        figures.drafted += int(lengths.sum())
        figures.accepted += int(accepted.sum())
        figures.steps_with_draft += int(with_draft.sum())
        us = np.repeat(times, [part.size for part in accepted_of])
        counts = (None, emitted, lengths, accepted, with_draft, us)
        turn = np.concatenate(turns)
        classes = np.searchsorted(POSITION_CLASSES, np.concatenate(positions), side="right") - 1
        sources = [
            np.zeros(part.size, np.uint8) if rows.sources is None else rows.sources
            for rows, part in zip(drafts, accepted_of, strict=True)
        ]
        source = np.concatenate(sources)
        for into, by in (
            (figures.by_position, classes),
            (figures.by_turn, turn),
            (figures.by_source, source),
        ):
            for i, values in enumerate(counts):
                into[i] += np.bincount(by, weights=values, minlength=into.shape[1])
        figures.history_by_turn += np.bincount(turn[source == 1], minlength=figures.history_by_turn.size)
        known = [rows.probabilities for rows in drafts if rows.probabilities is not None]
        if len(known) == len(drafts):
            self._judge(np.concatenate(known), lengths, accepted)

    def _judge(self, probabilities: Float32Array, lengths: Int32Array, accepted: Int64Array) -> None:
        """Count promised against observed survival."""
        if not probabilities.size:
            return
        survival = survivals(probabilities, lengths)
        ends = np.cumsum(lengths)
        right = np.arange(probabilities.size) - np.repeat(ends - lengths, lengths) < np.repeat(
            accepted, lengths
        )
        bins = np.clip((survival * BINS).astype(np.int64), 0, BINS - 1)
        for i, weights in enumerate((None, survival, right)):
            self._figures.reliability[i] += np.bincount(bins, weights=weights, minlength=BINS)


def survivals(probabilities: Float32Array, lengths: Int32Array) -> Float64Array:
    """Return each token's probability of being accepted together with all before it in its row, float64, shape (t,).

    Args:
        probabilities: float32, shape (t,): given that all before it in its row were accepted.
        lengths: int32, shape (b,): of the rows.
    """
    if len(lengths) == 1:
        return np.multiply.accumulate(probabilities, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(probabilities, 1e-9, dtype=np.float64)))])
    begins = np.cumsum(lengths) - lengths
    return np.asarray(np.exp(logs[1:] - np.repeat(logs[begins], lengths)))
