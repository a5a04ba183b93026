"""How good the budget's choice of the number of draft tokens is, against choices that know more than it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from redraft.benchmarks.drafters import Redraft
from redraft.benchmarks.figures import Float32Array, Int64Array, Rows, survivals
from redraft.benchmarks.traces import Int32Array
from redraft.cost_table import CostTable
from redraft.going_rate import GoingRate

Float64Array = npt.NDArray[np.float64]

BINS = 32
"""Classes of survival by which the informed oracle knows how often tokens are accepted."""
ROUNDS = 6
"""Of finding the rate that a choice reaches; it hardly changes after the third."""


@dataclass
class State:
    """One step: what the rule had to choose from."""

    requests: int
    promised: Float32Array
    """Shape (k,): survivals, falling."""
    hit: npt.NDArray[np.bool_]
    """Shape (k,): whether each of these tokens is accepted."""


@dataclass
class Sums:
    """What steps took and brought."""

    draft_tokens: int = 0
    emitted: float = 0.0
    seconds: float = 0.0

    def add(self, draft_tokens: int, emitted: float, seconds: float) -> None:
        """Add a step."""
        self.draft_tokens += draft_tokens
        self.emitted += emitted
        self.seconds += seconds

    @property
    def rate(self) -> float:
        """Emitted tokens a second."""
        return self.emitted / self.seconds if self.seconds else 0.0


class Judge(Redraft):
    """Compares, step by step, the number of tokens that the rule drafts with what others would have drafted.

    The rule knows the table and no more. All others choose another number of the same proposals, likeliest first, in
    the states that the rule comes to:

    - the oracle knows, at each step, which of them will be accepted, and takes the most tokens a second of that step;
    - the patient oracle knows the same and maximises tokens a second over all steps instead;
    - the informed oracle does so knowing how often tokens of such a survival are accepted over the whole replay, and
      the rate that comes of it, but not which of them;
    - the clairvoyant chooses the tokens themselves;
    - of one length: the same length for every request and step, the one that turns out best.

    Args:
        table: what steps cost.
        horizon: most draft tokens for a request and step.
        min_survival, policy: as `Redraft` takes them.
    """

    def __init__(self, table: CostTable, horizon: int, min_survival: float, policy: str) -> None:
        super().__init__(min_survival, policy=policy)
        self._table = table
        self._prices: dict[int, Float64Array] = {}
        self._whole = Rows(np.empty(0, np.int32), np.zeros(1, np.int32))
        self._order = np.empty(0, np.int64)
        self._promised = np.empty(0, np.float32)
        self._rate = GoingRate()
        self._horizon = horizon
        self.restart()

    def restart(self) -> None:
        """Count anew; what was learned stays."""
        self._states: list[State] = []
        self._rule, self._oracle, self._clairvoyant = Sums(), Sums(), Sums()
        self._lengths = np.zeros((self._horizon + 1, 2))  # by length: emitted tokens, seconds

    @property
    def seconds(self) -> float:
        """What the rule took."""
        return self._rule.seconds

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Propose everything; keep what the rule would draft."""
        batch = self._drafter.step(requests, new, offsets, horizons)
        self._whole = Rows(batch.token_ids, batch.offsets, batch.probabilities, batch.sources)
        promised = survivals(batch.probabilities, np.diff(batch.offsets))
        self._order = np.argsort(-promised, kind="stable")
        self._promised = promised[self._order].astype(np.float32)
        count = len(requests)
        prices = self._seconds(count, promised.size)
        rate = self._rate.gain(count) * count / float(prices[0])
        chosen = _choice(count, _from_zero(self._promised), prices, rate)
        return _keep(self._whole, self._order[:chosen])

    def watch(self, rows: Rows, accepted: Int64Array, verify: Any) -> None:
        """Ask those that need this step only, and remember it for the others."""
        count = len(accepted)
        right = verify(self._whole)
        long = np.diff(self._whole.offsets)
        place = np.arange(self._order.size) - np.repeat(self._whole.offsets[:-1], long)
        hit = (place < np.repeat(right, long))[self._order]
        prices = self._seconds(count, self._order.size)
        known = _from_zero(hit)
        taken = int(rows.offsets[-1])
        emitted = count + float(accepted.sum())
        self._rule.add(taken, emitted, float(prices[taken]))
        self._rate.observe(count, emitted, float(prices[taken] / prices[0]))
        best = _choice(count, known, prices)
        self._oracle.add(best, count + float(known[best]), float(prices[best]))
        perfect = _choice(count, np.arange(int(right.sum()) + 1), prices[: int(right.sum()) + 1])
        self._clairvoyant.add(perfect, count + perfect, float(prices[perfect]))
        sizes = np.arange(len(self._lengths))
        drafted = np.minimum(long[:, None], sizes).sum(axis=0)
        self._lengths[:, 0] += count + np.minimum(right[:, None], sizes).sum(axis=0)
        self._lengths[:, 1] += prices[drafted]
        self._states.append(State(count, self._promised, hit))

    def result(self) -> dict[str, Any]:
        """Return the rule's tokens a second over each other's, and draft tokens a request and step."""
        by_length = self._lengths[:, 0] / self._lengths[:, 1]
        patient = self._reached([_from_zero(state.hit) for state in self._states])
        informed = self._reached(self._informed())
        steps = sum(state.requests for state in self._states)
        return {
            "rule_of_oracle": self._rule.rate / self._oracle.rate,
            "rule_of_patient_oracle": self._rule.rate / patient.rate,
            "rule_of_informed_oracle": self._rule.rate / informed.rate,
            "rule_of_clairvoyant": self._rule.rate / self._clairvoyant.rate,
            "rule_of_best_length": self._rule.rate / float(by_length.max()),
            "best_length": int(by_length.argmax()),
            "rule_length": self._rule.draft_tokens / steps,
            "oracle_length": self._oracle.draft_tokens / steps,
        }

    def _seconds(self, requests: int, draft_tokens: int) -> Float64Array:
        """Return what 0, 1 ... draft tokens cost, to `draft_tokens` at least."""
        prices = self._prices.get(requests)
        if prices is None or prices.size <= draft_tokens:
            tokens = np.arange(max(64, 2 * draft_tokens) + 1)
            prices = self._prices[requests] = self._table.seconds_at(requests, tokens)
        return prices

    def _informed(self) -> list[Float64Array]:
        """Return each step's expected accepted tokens by number drafted, by how often its classes were accepted."""
        if not self._states:
            return []
        hit = np.concatenate([state.hit for state in self._states])
        classes = (np.concatenate([state.promised for state in self._states]) * (BINS - 1e-3)).astype(
            np.int64
        )
        drafted = np.bincount(classes, minlength=BINS)
        often = np.bincount(classes, weights=hit, minlength=BINS) / np.maximum(1, drafted)
        ends = np.cumsum([state.hit.size for state in self._states])[:-1]
        return [_from_zero(part) for part in np.split(often[classes], ends)]

    def _reached(self, gained: list[Float64Array]) -> Sums:
        by_requests: dict[int, list[int]] = {}
        for i, state in enumerate(self._states):
            by_requests.setdefault(state.requests.bit_length(), []).append(i)
        total = Sums()
        for places in by_requests.values():
            states = [self._states[i] for i in places]
            part = best_of_all(states, [gained[i] for i in places], self._prices)
            total.add(part.draft_tokens, part.emitted, part.seconds)
        return total


def best_of_all(states: list[State], gained: list[Float64Array], prices: Mapping[int, Float64Array]) -> Sums:
    """Return what is reached by the numbers of tokens that bring most a second over all steps, not in each.

    Args:
        states: the steps.
        gained: for each, how many tokens are believed to be accepted, by number drafted from 0 on.
        prices: by requests: what a step costs, by draft tokens from 0 on.
    """
    rate, sums = 0.0, Sums()
    for _ in range(ROUNDS):
        believed, sums = Sums(), Sums()
        for state, accepted in zip(states, gained, strict=True):
            taken = _choice(state.requests, accepted, prices[state.requests], rate)
            seconds = float(prices[state.requests][taken])
            believed.add(taken, state.requests + float(accepted[taken]), seconds)
            sums.add(taken, state.requests + int(state.hit[:taken].sum()), seconds)
        if abs(believed.rate - rate) <= 1e-6 * rate:
            break
        rate = believed.rate
    return sums


def _choice(requests: int, gained: npt.NDArray[Any], prices: Float64Array, rate: float = 0.0) -> int:
    """Return the number of tokens that is worth most: as `Drafter.step` chooses it."""
    emitted, seconds = requests + gained, prices[: gained.size]
    return int(np.argmax(emitted - rate * seconds if rate else emitted / seconds))


def _from_zero(each: npt.NDArray[Any]) -> Float64Array:
    sums = np.zeros(each.size + 1)
    np.cumsum(each, out=sums[1:])
    return sums


def _keep(rows: Rows, places: Int64Array) -> Rows:
    """Return only the tokens at `places`, which are the beginnings of rows."""
    kept = np.zeros(rows.token_ids.size, bool)
    kept[places] = True
    before = np.concatenate([[0], np.cumsum(kept)])
    return Rows(rows.token_ids[kept], before[rows.offsets].astype(np.int32))
