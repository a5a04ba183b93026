"""How good the budget's choice of the number of draft tokens is, against choices that know more than it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from redraft.benchmarks.drafters import Redraft
from redraft.benchmarks.figures import Float32Array, Int64Array, Rows, survivals
from redraft.benchmarks.traces import Int32Array
from redraft.cost_table import CostTable

Float64Array = npt.NDArray[np.float64]

BINS = 32
"""Classes of survival by which the informed oracle knows how often tokens are accepted."""
ROUNDS = 6
"""Of finding the rate that a choice reaches; it hardly changes after the third."""


class Prices:
    """What steps cost by a table, looked up quickly."""

    def __init__(self, table: CostTable) -> None:
        self._table = table
        self._prices: dict[int, Float64Array] = {}

    def of(self, requests: int, draft_tokens: int) -> Float64Array:
        """Return the seconds of a step with 0, 1 ... draft tokens, to `draft_tokens` at least, float64."""
        prices = self._prices.get(requests)
        if prices is None or prices.size <= draft_tokens:
            tokens = np.arange(max(64, 2 * draft_tokens) + 1)
            prices = self._prices[requests] = self._table.seconds_at(requests, tokens)
        return prices


class Steps(NamedTuple):
    """Steps, with what could have been drafted in them, likeliest first. Ragged: step i's entries, one for each number
    of draft tokens from 0 on, are `[begins[i]:begins[i + 1]]` of the last three."""

    requests: Int64Array
    """Shape (n,)."""
    begins: Int64Array
    """Shape (n + 1,)."""
    seconds: Float64Array
    gained: Float64Array
    """Tokens believed to be accepted."""
    accepted: Float64Array
    """Tokens that are."""

    def at(self, places: npt.NDArray[np.bool_]) -> Steps:
        """Return some of the steps; `places` has shape (n,)."""
        sizes = np.diff(self.begins)
        entries = np.repeat(places, sizes)
        begins = np.concatenate([[0], np.cumsum(sizes[places])])
        return Steps(
            self.requests[places],
            begins,
            *(each[entries] for each in (self.seconds, self.gained, self.accepted)),
        )


class Sums(NamedTuple):
    """What steps took and brought."""

    draft_tokens: float = 0.0
    emitted: float = 0.0
    seconds: float = 0.0

    def plus(self, more: Sums) -> Sums:
        """Return both together."""
        return Sums(*(a + b for a, b in zip(self, more, strict=True)))

    @property
    def rate(self) -> float:
        """Emitted tokens a second."""
        return self.emitted / self.seconds if self.seconds else 0.0


class Judge(Redraft):
    """Compares, step by step, the number of tokens that the rule drafts with what others would have drafted.

    The rule knows the table and no more. All others choose another number of the same proposals, likeliest first, in
    the states that the rule comes to; compared is the time that they would have taken for the rule's tokens, with as
    many requests at once (numbers between two powers of two taken together):

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
        self._prices = Prices(table)
        self._horizon = horizon
        self._whole = Rows(np.empty(0, np.int32), np.zeros(1, np.int32))
        self._order = np.empty(0, np.int64)
        self._promised = np.empty(0, np.float32)
        self.restart()

    def restart(self) -> None:
        """Count anew; what was learned stays."""
        self._rule: dict[int, Sums] = {}
        # Of each step: draft tokens of each row, those of them that are right, survivals and whether each is right.
        self._lengths: list[Int64Array] = []
        self._right: list[Int64Array] = []
        self._promises: list[Float32Array] = []
        self._hits: list[npt.NDArray[np.bool_]] = []

    @property
    def seconds(self) -> float:
        """What the rule took."""
        return sum(sums.seconds for sums in self._rule.values())

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Propose everything; keep what the rule would draft."""
        batch = self._drafter.step(requests, new, offsets, horizons)
        self._whole = Rows(batch.token_ids, batch.offsets, batch.probabilities, batch.sources)
        promised = survivals(batch.probabilities, batch.offsets[1:] - batch.offsets[:-1])
        if len(requests) > 1:
            self._order = (-promised).argsort(kind="stable")
            promised = promised[self._order]
        else:
            self._order = np.arange(promised.size)
        self._promised = promised.astype(np.float32)
        count, most = len(requests), promised.size
        prices = self._prices.of(count, most)[: most + 1]
        chosen = int(np.argmax((count + _from_zero(self._promised)) / prices))
        return self._whole if chosen == most else _keep(self._whole, self._order[:chosen])

    def watch(self, rows: Rows, accepted: Int64Array, verify: Any) -> None:
        """Count what the rule took and brought; remember the step for all others."""
        count, taken = len(accepted), int(rows.offsets[-1])
        right = accepted if rows is self._whole else verify(self._whole)
        begins = self._whole.offsets[:-1]
        long = self._whole.offsets[1:] - begins
        place = self._order - begins.repeat(long)[self._order]
        prices = self._prices.of(count, taken)
        emitted, seconds = count + int(accepted.sum()), float(prices[taken])
        octave = count.bit_length()
        self._rule[octave] = self._rule.get(octave, Sums()).plus(Sums(taken, emitted, seconds))
        self._lengths.append(long)
        self._right.append(right)
        self._promises.append(self._promised)
        self._hits.append(place < right.repeat(long)[self._order])

    def result(self) -> dict[str, Any]:
        """Return the rule's tokens a second over each other's, and draft tokens a request and step."""
        requests = np.asarray([long.size for long in self._lengths])
        drafted = np.asarray([hits.size for hits in self._hits])
        hits, promises = np.concatenate(self._hits), np.concatenate(self._promises)
        classes = (promises * (BINS - 1e-3)).astype(np.int64)
        often = np.bincount(classes, hits, BINS) / np.maximum(1, np.bincount(classes, minlength=BINS))
        octaves = np.frexp(requests)[1]
        right = np.asarray([part.sum() for part in self._right])
        steps = self._steps(requests, drafted, hits, hits)
        informed = self._steps(requests, drafted, often[classes], hits)
        single = self._steps(requests, right, *[np.ones(int(right.sum()))] * 2)
        by_length = [self._needed(sums) for sums in self._by_length(requests, octaves)]
        oracle = _by_octave(chosen, steps, octaves)
        count, taken = int(requests.sum()), sum(sums.draft_tokens for sums in self._rule.values())
        return {
            "rule_of_oracle": self._needed(oracle),
            "rule_of_patient_oracle": self._needed(_by_octave(best_of_all, steps, octaves)),
            "rule_of_informed_oracle": self._needed(_by_octave(best_of_all, informed, octaves)),
            "rule_of_clairvoyant": self._needed(_by_octave(chosen, single, octaves)),
            "rule_of_best_length": min(by_length),
            "best_length": int(np.argmin(by_length)),
            "rule_length": taken / count,
            "oracle_length": sum(sums.draft_tokens for sums in oracle.values()) / count,
        }

    def _needed(self, others: dict[int, Sums]) -> float:
        """Return the share of the rule's time in which others (by octave) would have brought its tokens."""
        needed = sum(sums.emitted / others[octave].rate for octave, sums in self._rule.items())
        return needed / self.seconds

    def _steps(
        self, requests: Int64Array, drafted: Int64Array, gained: npt.NDArray[Any], accepted: npt.NDArray[Any]
    ) -> Steps:
        """Return steps of so many requests and tokens; the last two say of each token what it brings."""
        begins = np.concatenate([[0], np.cumsum(drafted + 1)])
        seconds = [
            self._prices.of(r, k)[: k + 1] for r, k in zip(requests.tolist(), drafted.tolist(), strict=True)
        ]
        after = np.ones(int(begins[-1]), bool)
        after[begins[:-1]] = False
        sums = []
        for each in (gained, accepted):
            entries = np.zeros(int(begins[-1]))
            entries[after] = each
            so_far = np.cumsum(entries)
            sums.append(so_far - np.repeat(so_far[begins[:-1]], drafted + 1))
        return Steps(requests, begins, np.concatenate(seconds), *sums)

    def _by_length(self, requests: Int64Array, octaves: Int64Array) -> list[dict[int, Sums]]:
        """Return what had been reached, had every request always had 0, 1 ... draft tokens at most, by octave."""
        step = np.repeat(np.arange(requests.size), requests)
        long, right = np.concatenate(self._lengths), np.concatenate(self._right)
        results = []
        for length in range(self._horizon + 1):
            drafted = np.bincount(step, np.minimum(long, length), requests.size).astype(np.int64)
            emitted = requests + np.bincount(step, np.minimum(right, length), requests.size)
            places = zip(requests.tolist(), drafted.tolist(), strict=True)
            seconds = np.asarray([self._prices.of(count, tokens)[tokens] for count, tokens in places])
            sums = [np.bincount(octaves, each) for each in (drafted, emitted, seconds)]
            results.append({octave: Sums(*(float(each[octave]) for each in sums)) for octave in self._rule})
        return results


def chosen(steps: Steps, rate: float = 0.0) -> Sums:
    """Return what is reached by the numbers of tokens that are worth most, each step by itself: as `Drafter.step`
    chooses them.

    Args:
        steps: what there is to choose from.
        rate: tokens that a second is worth; 0: what the step itself makes of it.
    """
    return _chosen(steps, rate)[0]


def best_of_all(steps: Steps) -> Sums:
    """Return what is reached by the numbers of tokens that bring most a second over all steps, not in each."""
    rate, sums = 0.0, Sums()
    for _ in range(ROUNDS):
        sums, believed = _chosen(steps, rate)
        if abs(believed.rate - rate) <= 1e-6 * rate:
            break
        rate = believed.rate
    return sums


def _chosen(steps: Steps, rate: float) -> tuple[Sums, Sums]:
    """Return what is reached, and what is believed to be."""
    if not steps.requests.size:
        return Sums(), Sums()
    begins, sizes = steps.begins[:-1], np.diff(steps.begins)
    emitted = np.repeat(steps.requests, sizes) + steps.gained
    worth = emitted - rate * steps.seconds if rate else emitted / steps.seconds
    best = np.flatnonzero(worth == np.repeat(np.maximum.reduceat(worth, begins), sizes))
    taken = best[np.searchsorted(best, begins)]  # the fewest tokens among equals
    draft_tokens, seconds = float((taken - begins).sum()), float(steps.seconds[taken].sum())
    reached = float(steps.requests.sum() + steps.accepted[taken].sum())
    return Sums(draft_tokens, reached, seconds), Sums(draft_tokens, float(emitted[taken].sum()), seconds)


def _by_octave(choose: Callable[[Steps], Sums], steps: Steps, octaves: Int64Array) -> dict[int, Sums]:
    return {int(octave): choose(steps.at(octaves == octave)) for octave in np.unique(octaves)}


def _from_zero(each: npt.NDArray[Any]) -> Float64Array:
    sums = np.zeros(each.size + 1)
    each.cumsum(out=sums[1:])
    return sums


def _keep(rows: Rows, places: Int64Array) -> Rows:
    """Return only the tokens at `places`, which are the beginnings of rows."""
    kept = np.zeros(rows.token_ids.size, bool)
    kept[places] = True
    before = np.concatenate([[0], np.cumsum(kept)])
    return Rows(rows.token_ids[kept], before[rows.offsets].astype(np.int32))
