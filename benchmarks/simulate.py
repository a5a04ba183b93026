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
from redraft.benchmarks.figures import Figures, Int64Array, Rows
from redraft.benchmarks.oracles import Judge, Prices
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
    policy: str = "blend"
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
        self._prices = Prices(table)
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
        seconds = float(self._prices.of(count, tokens)[tokens])
        self.seconds += seconds
        self.emitted += emitted
        self.steps += 1
        self.drafting += tokens > 0
        seen = seconds * float(np.exp(self._noise * self._draw.standard_normal()))
        self.budget.observe(count, tokens, emitted, seen * (5 if self._draw.random() < 0.01 else 1))

    def restart(self) -> None:
        """Count anew; what was learned stays."""
        self.seconds, self.emitted, self.drafting, self.steps = 0.0, 0, 0, 0


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

    What was learned in the first epoch, of costs and of acceptance, is gone on from in the last, as in a run.
    """
    epochs = trace.epochs()
    priced = Priced(table, concurrency, options)
    judge = Judge(table, options.horizon, options.min_survival, options.policy)
    results = []
    for number in sorted({0, len(epochs) - 1}):
        responses = choose(epochs[number], max(options.least, options.per_slot * concurrency))
        figures: dict[str, Any] = {}
        for proposer in (judge, priced):
            proposer.start_epoch(trace.prompts, epochs[:number])
            counted = Figures(number)
            watch: Watch = proposer.watch
            replay_epoch(responses, proposer, concurrency, options.horizon, counted, None, watch)
            figures = counted.result()
        plain = plain_seconds([r.token_ids.size - 1 for r in responses], concurrency, table)
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
                "speedup_known_costs": plain / judge.seconds,
                "estimated_saving": priced.budget.saving,
                "tokens_per_step": figures["tokens_per_step"],
                "drafted_per_step": figures["drafted_per_step"],
                "steps_with_draft": priced.drafting / max(1, priced.steps),
                "explored": priced.budget.explored_seconds / max(1e-9, priced.budget.seconds),
                **judge.result(),
            }
        )
        priced.restart()
        judge.restart()
    return results
