"""What an engine step costs, learned from the steps that were seen.

A step's time is taken to be a + b requests + c draft tokens, and more once there is any draft at all: verifying runs
other code than plain decoding. That much is fitted to everything seen; where steps were seen, their medians correct it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from redraft.cost_table import CostTable

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]

WINDOW = 48
"""Steps remembered of a cell; the median of so many is off by a fifth of their spread."""
ENOUGH = 16
"""Steps from which on a cell is believed as much as it ever is."""
WIDTH = 0.6
"""How far a cell speaks for its neighbours, in octaves of requests and of draft tokens."""
FREE_TOKENS = 32
"""Before anything is known, what all that does not depend on tokens costs, in tokens."""
LEVEL_RATE, LEVEL_STEP = 0.03, 0.05
"""How fast all costs follow a change that hits them alike (contexts growing), and what one step may say of it."""
FIT_ERROR, FIT_SHARE = 0.05, 0.5
"""How wrong the fit's form may be, and what a step elsewhere counts for one here as far as chance goes."""
ODD = 0.3
"""A cell that the fit misses by more than this counts for little in it."""
REFIT = 32
"""Steps after which the fit is made again, at the latest."""


@dataclass(slots=True)
class _Cell:
    requests: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))
    tokens: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    """Logarithms, less the level."""

    def add(self, requests: int, tokens: int, seconds: float) -> int:
        self.requests.append(requests)
        self.tokens.append(tokens)
        self.seconds.append(seconds)
        return len(self.seconds)

    def middle(self) -> tuple[float, float, float]:
        """Return mean requests, mean draft tokens and the median, of two the lower: what strays is slow."""
        count = len(self.seconds)
        return sum(self.requests) / count, sum(self.tokens) / count, sorted(self.seconds)[(count - 1) // 2]


class Curve(NamedTuple):
    """The costs of the next step."""

    requests: int
    draft_tokens: Int32Array
    """Shape (m,), rising from 0."""
    seconds: Float64Array
    """Shape (m,), not falling."""
    error: Float64Array
    """Shape (m,): about one standard error of `seconds` over `seconds[0]`, relative; 0 for the first."""
    plain_steps: float
    """Steps without a draft that were seen with about as many requests, each weighted by how near it was."""
    drafted_steps: float
    """Likewise with drafts."""


class StepCosts:
    """Seconds of a step by requests and draft tokens. Deterministic given what it is told. Not thread-safe.

    Args:
        most_draft_tokens: largest number of draft tokens that is asked for, > 0.
        table: what is believed until steps were seen, up to a factor; None: nothing is known.
    """

    def __init__(self, most_draft_tokens: int, table: CostTable | None = None) -> None:
        knots = {0, 1, 2, 3, most_draft_tokens}
        knots |= {round(2 ** (i / 2)) for i in range(4, 2 * most_draft_tokens.bit_length())}
        self._knots = np.asarray(sorted(k for k in knots if k <= most_draft_tokens), np.int32)
        self._table = table
        self._cells: dict[tuple[int, int], _Cell] = {}
        self._level = 0.0
        self._spread = 0.1
        self._steps = 0
        self._fitted = -1
        self._parameters = np.zeros(4)
        self._places = np.zeros((0, 3))
        self._residuals = np.zeros(0)
        self._counts = np.zeros(0)
        self._curves: dict[int, Curve] = {}

    def observe(self, requests: int, draft_tokens: int, seconds: float) -> None:
        """Take in a step that decoded: `requests` > 0 rows, no prefill, no idle time.

        One step out of line does no harm, however far; neither does half of them.
        """
        if not (seconds > 0 and math.isfinite(seconds)):
            return
        observed = math.log(seconds)
        curve = self.curve(requests) if self._cells else None
        if curve is not None:
            expected = math.log(float(np.interp(draft_tokens, curve.draft_tokens, curve.seconds)))
            off = observed - expected
            self._spread += 0.05 * (min(abs(off), 0.5) - self._spread)
            if (curve.drafted_steps if draft_tokens else curve.plain_steps) >= ENOUGH:
                self._level += LEVEL_RATE * min(LEVEL_STEP, max(-LEVEL_STEP, off))
        key = (_octave(requests), 1 + _octave(draft_tokens) if draft_tokens else 0)
        new = key not in self._cells
        cell = self._cells.setdefault(key, _Cell())
        count = cell.add(requests, draft_tokens, observed - self._level)
        self._steps += 1
        if new or count in (2, 4, 8) or self._steps - self._fitted >= REFIT:
            self._fit()

    def curve(self, requests: int) -> Curve:
        """Return what a step with `requests` > 0 costs, by draft tokens, in seconds; relative before the first."""
        curve = self._curves.get(requests)
        if curve is None:
            curve = self._curves[requests] = self._curve(requests)
        return curve

    def _curve(self, requests: int) -> Curve:
        knots = self._knots.astype(np.float64)
        logs = np.log(self._model(np.full(knots.size, float(requests)), knots)) + self._level
        weights = np.zeros((knots.size, 0))
        near = np.zeros(0)
        if self._residuals.size:
            far = (self._places[:, 0] - math.log2(requests)) / WIDTH
            along = (self._places[None, :, 1] - np.log2(knots + 1)[:, None]) / WIDTH
            alike = (knots > 0)[:, None] == (self._places[None, :, 2] > 0)
            near = self._counts * np.exp(-0.5 * far * far)
            weights = near * np.exp(-0.5 * along * along) * alike
        known = weights.sum(axis=1)
        seconds = np.exp(logs + (weights @ self._residuals) / (1.0 + known))
        plain = self._places[:, 2] == 0
        drafted_steps = float(near[~plain].sum())
        # A median of so many values that are off by `spread`; where only the fit speaks, its form may be off too.
        values = 1 + known + FIT_SHARE * drafted_steps
        error = np.hypot(FIT_ERROR / (1 + known), 1.25 * self._spread / np.sqrt(values))
        error = np.hypot(error, error[0])
        error[0] = 0
        return Curve(
            requests,
            self._knots,
            np.maximum.accumulate(seconds),
            error,
            float(near[plain].sum()),
            drafted_steps,
        )

    def _model(self, requests: Float64Array, tokens: Float64Array) -> Float64Array:
        if self._table is not None:
            factor = self._parameters[0] or 1.0
            if (requests == requests[0]).all():
                return self._table.seconds_at(float(requests[0]), tokens) * factor
            values = [self._table.seconds_at(float(r), t) for r, t in zip(requests, tokens, strict=True)]
            return np.asarray(values) * factor
        if not self._parameters.any():
            return FREE_TOKENS + requests + tokens
        return _features(requests, tokens) @ self._parameters

    def _fit(self) -> None:
        """Fit the model to the cells' medians; relative errors count, prior knowledge like one step."""
        self._fitted = self._steps
        self._curves.clear()
        middles = np.asarray([cell.middle() for cell in self._cells.values()])
        requests, tokens, seconds = middles[:, 0], middles[:, 1], np.exp(middles[:, 2])
        self._counts = np.minimum([len(cell.seconds) for cell in self._cells.values()], float(ENOUGH))
        self._places = np.stack([np.log2(requests), np.log2(tokens + 1), tokens], axis=1)
        if self._table is not None:
            self._parameters = np.zeros(4)
            ratio = np.log(seconds / self._model(requests, tokens))
            self._parameters[0] = math.exp(float((self._counts * ratio).sum() / self._counts.sum()))
        else:
            unit = float(np.median(seconds / (FREE_TOKENS + requests + tokens)))
            prior = unit * np.asarray([FREE_TOKENS, 1.0, 1.0, 0.0])
            features, weights = _features(requests, tokens), self._counts
            for _ in range(2):
                self._parameters = _fit_positive(features, seconds, weights, prior)
                off = np.log(seconds / (features @ self._parameters))
                weights = self._counts / (1 + (off / ODD) ** 2)
        self._residuals = middles[:, 2] - np.log(self._model(requests, tokens))
        # A single step may be out of line by any factor; the lower of two hardly ever is.
        self._counts -= 0.8


def _octave(value: int) -> int:
    """Return the half octave that `value` > 0 is in."""
    return round(2 * math.log2(value))


def _features(requests: Float64Array, tokens: Float64Array) -> Float64Array:
    return np.stack([np.ones(requests.size), requests, tokens, tokens > 0], axis=1)


def _fit_positive(
    features: Float64Array, seconds: Float64Array, counts: Float64Array, prior: Float64Array
) -> Float64Array:
    """Return the parameters >= 0 of least squared relative error; negative ones are left out one by one."""
    rows = features / seconds[:, None]
    scale = np.asarray([1.0, float(features[:, 1].mean()), max(1.0, float(features[:, 2].mean())), 1.0])
    ridge = np.diag((scale / float(np.median(seconds))) ** 2)
    matrix = (rows * counts[:, None]).T @ rows + ridge
    target = (rows * counts[:, None]).sum(axis=0) + ridge @ prior
    left = list(range(4))
    result = np.zeros(4)
    while left:
        result[:] = 0
        result[left] = np.linalg.solve(matrix[np.ix_(left, left)], target[left])
        worst = min(left, key=lambda i: result[i])
        if result[worst] >= 0:
            break
        left.remove(worst)
    result[0] = max(result[0], 1e-3 * float(seconds.min()))  # never a cost of nothing
    return result
