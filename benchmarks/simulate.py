"""`redraft bench simulate`: recorded rollouts priced by a cost table, against plain decoding.

Every decode step of the replay takes what the table says of its requests and draft tokens; prefill is left out, as
drafting does not change it. Plain decoding admits the same responses in the same order.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from redraft.auto_budget import PLAIN, AutoBudget
from redraft.benchmarks.drafters import Redraft
from redraft.benchmarks.figures import Figures, Int64Array, Rows, survivals
from redraft.benchmarks.replay import Watch, replay_epoch
from redraft.benchmarks.traces import Int32Array, Response, Trace
from redraft.cost_table import CostTable, read_cost_table

TABLES = Path(__file__).parent / "cost_tables"
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """How to price."""

    horizon: int = 16
    min_survival: float = 0.25
    policy: str = "longest"
    per_slot: int = 4
    """Responses for each request that runs at once, at least."""
    least: int = 32
    """Responses at least."""
    noise: float = 0.1
    """Spread of the step times that the budget sees, relative; a hundredth of them takes five times as long."""


def shipped_tables() -> dict[str, Path]:
    """Return the tables that come with the project, by name."""
    return {path.stem: path for path in sorted(TABLES.glob("*.json"))}


def load(name: str) -> CostTable:
    """Return a shipped table by its name, or the one in a file."""
    return read_cost_table(shipped_tables().get(name) or Path(name))


class Priced(Redraft):
    """redraft under a budget of its own, which learns from step times that are made up from a table.

    Args:
        table: what steps cost.
        concurrency: most requests at once.
        options: how to draft.
    """

    def __init__(self, table: CostTable, concurrency: int, options: Options) -> None:
        super().__init__(options.min_survival, policy=options.policy)
        self._table = table
        self._noise = options.noise
        self._draw = np.random.default_rng(concurrency)
        self.budget = AutoBudget(concurrency * options.horizon)
        self.seconds = 0.0
        self.emitted = 0
        self.drafting = 0
        """Steps with a draft."""
        self.steps = 0

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Make the one call of the engine step, under the budget's costs."""
        count = len(requests)
        plan = self.budget.plan(count) if horizons.any() else PLAIN
        limits = horizons if plan.draft else np.zeros_like(horizons)
        batch = self._drafter.step(requests, new, offsets, limits, costs=plan.costs)
        return Rows(batch.token_ids, batch.offsets, batch.probabilities, batch.sources)

    def watch(self, rows: Rows, accepted: Int64Array, verify: Any) -> None:
        """Price a step."""
        count, tokens = len(accepted), int(rows.offsets[-1])
        emitted = int(accepted.sum()) + count
        seconds = float(self._table.seconds_at(count, tokens))
        self.seconds += seconds
        self.emitted += emitted
        self.steps += 1
        self.drafting += tokens > 0
        seen = seconds * float(np.exp(self._noise * self._draw.standard_normal()))
        self.budget.observe(count, tokens, emitted, seen * (5 if self._draw.random() < 0.01 else 1))

    def restart(self) -> None:
        """Count anew; what was learned stays."""
        self.seconds, self.emitted, self.drafting, self.steps = 0.0, 0, 0, 0


class Judge(Redraft):
    """Compares, step by step, the number of tokens that the rule drafts with what hindsight would have drafted.

    The rule knows the table. The oracle chooses another number of the same proposals, likeliest first, knowing how many
    of them will be accepted; the clairvoyant chooses the tokens themselves. Beside them stands the one length for every
    request and step that turns out to have been best. All are asked in the states that the rule comes to.
    """

    def __init__(self, table: CostTable, options: Options) -> None:
        super().__init__(options.min_survival, policy=options.policy)
        self._table = table
        self._whole = Rows(np.empty(0, np.int32), np.zeros(1, np.int32))
        self._order = np.empty(0, np.int64)
        self.choices = np.zeros((3, 3))
        """Rule, oracle, clairvoyant: draft tokens, emitted tokens, seconds."""
        self.lengths = np.zeros((options.horizon + 1, 2))
        """Had every request always had so many draft tokens: emitted tokens, seconds."""
        self.steps = 0
        """Steps of single requests."""

    def step(self, requests: Int32Array, new: Int32Array, offsets: Int32Array, horizons: Int32Array) -> Rows:
        """Propose everything; keep what the rule would draft."""
        batch = self._drafter.step(requests, new, offsets, horizons)
        self._whole = Rows(batch.token_ids, batch.offsets, batch.probabilities, batch.sources)
        promised = survivals(batch.probabilities, np.diff(batch.offsets))
        self._order = np.argsort(-promised, kind="stable")
        expected = np.concatenate([[0.0], np.cumsum(promised[self._order])])
        chosen = self._best(len(requests), expected)
        return _keep(self._whole, self._order[:chosen])

    def watch(self, rows: Rows, accepted: Int64Array, verify: Any) -> None:
        """Ask all three."""
        count = len(accepted)
        right = verify(self._whole)
        place = np.arange(self._order.size) - np.repeat(
            self._whole.offsets[:-1], np.diff(self._whole.offsets)
        )
        hit = place < np.repeat(right, np.diff(self._whole.offsets))
        known = np.concatenate([[0], np.cumsum(hit[self._order])]).astype(np.float64)
        best = self._best(count, known)
        only = np.arange(int(right.sum()) + 1).astype(np.float64)
        perfect = self._best(count, only)
        taken = int(rows.offsets[-1])
        self.steps += count
        sizes = np.arange(len(self.lengths))
        long = np.diff(self._whole.offsets)
        drafted = np.minimum(long[:, None], sizes).sum(axis=0)
        self.lengths[:, 0] += count + np.minimum(right[:, None], sizes).sum(axis=0)
        self.lengths[:, 1] += self._table.seconds_at(count, drafted)
        for i, (tokens, gained) in enumerate(
            ((taken, float(accepted.sum())), (best, known[best]), (perfect, float(perfect)))
        ):
            self.choices[i] += tokens, count + gained, float(self._table.seconds_at(count, tokens))

    def _best(self, requests: int, gained: Float64Array) -> int:
        seconds = self._table.seconds_at(requests, np.arange(gained.size))
        return int(np.argmax((requests + gained) / seconds))


def plain_seconds(lengths: Sequence[int], concurrency: int, table: CostTable) -> float:
    """Return the time of plain decoding: responses of so many decode steps, admitted in their order as others end."""
    waiting = iter([length for length in lengths if length > 0])
    running = list(islice(waiting, concurrency))
    heapq.heapify(running)
    seconds, now = 0.0, 0
    while running:
        end = running[0]
        seconds += (end - now) * float(table.seconds_at(len(running), 0))
        now = end
        while running and running[0] == now:
            heapq.heappop(running)
            following = next(waiting, None)
            if following is not None:
                heapq.heappush(running, now + following)
    return seconds


def choose(epoch: Sequence[Response], count: int) -> list[Response]:
    """Return the first prompts' responses, siblings together, at least `count` if there are as many."""
    chosen = sorted(epoch, key=lambda response: response.prompt)
    end = count
    while 0 < end < len(chosen) and chosen[end].prompt == chosen[end - 1].prompt:
        end += 1
    return chosen[:end]


def run(trace: Trace, table: CostTable, concurrency: int, options: Options) -> list[dict[str, Any]]:
    """Price the first and the last epoch of a trace: without any history, and with all of it.

    The budget of the last epoch goes on from the first one's, as in a run.
    """
    epochs = trace.epochs()
    priced = Priced(table, concurrency, options)
    results = []
    for number in sorted({0, len(epochs) - 1}):
        responses = choose(epochs[number], max(options.least, options.per_slot * concurrency))
        judge = Judge(table, options)
        figures: dict[str, Any] = {}
        for proposer in (judge, priced):
            proposer.start_epoch(trace.prompts, epochs[:number])
            counted = Figures(number)
            watch: Watch = proposer.watch
            replay_epoch(responses, proposer, concurrency, options.horizon, counted, None, watch)
            figures = counted.result()
        plain = plain_seconds([r.token_ids.size - 1 for r in responses], concurrency, table)
        rule, oracle, clairvoyant = judge.choices[:, 1] / judge.choices[:, 2]
        by_length = judge.lengths[:, 0] / judge.lengths[:, 1]
        results.append(
            {
                "file": trace.name,
                "table": table.name,
                "concurrency": concurrency,
                "epoch": number,
                "responses": len(responses),
                "plain_seconds": plain,
                "seconds": priced.seconds,
                "speedup": plain / priced.seconds,
                "time_ratio": priced.seconds / plain,
                "speedup_known_costs": plain / judge.choices[0, 2],
                "estimated_saving": priced.budget.saving,
                "tokens_per_step": figures["tokens_per_step"],
                "drafted_per_step": figures["drafted_per_step"],
                "steps_with_draft": priced.drafting / max(1, priced.steps),
                "explored": priced.budget.explored_seconds / max(1e-9, priced.budget.seconds),
                "rule_of_oracle": rule / oracle,
                "rule_of_clairvoyant": rule / clairvoyant,
                "rule_of_best_length": rule / by_length.max(),
                "best_length": int(by_length.argmax()),
                "rule_length": judge.choices[0, 0] / judge.steps,
                "oracle_length": judge.choices[1, 0] / judge.steps,
            }
        )
        priced.restart()
    return results


def _keep(rows: Rows, places: Int64Array) -> Rows:
    """Return only the tokens at `places`, which are the beginnings of rows."""
    kept = np.zeros(rows.token_ids.size, bool)
    kept[places] = True
    before = np.concatenate([[0], np.cumsum(kept)])
    return Rows(rows.token_ids[kept], before[rows.offsets].astype(np.int32))
