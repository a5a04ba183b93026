"""How many draft tokens an engine step gets: as many as pay, by costs that are learned while it runs.

The core finds the number of tokens that brings most expected tokens a second (`Drafter.step(costs=...)`); here is
decided which costs it sees. Three rules, none of which looks at what the target samples where drafts are verified:

- Drafting must promise more than a margin over plain decoding: `MARGIN` and what the costs may be off by.
- A few steps each way are made to learn their costs (`TRIALS`), and where a number of requests was hardly seen.
- Whatever was not done for long is tried for a step now and then. But for the very first, trials may have cost no more
  than `EXPLORATION` of all time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from redraft.cost_table import CostTable
from redraft.step_costs import Curve, StepCosts

Costs = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]

MARGIN = 0.02
"""What drafting must gain at least over plain decoding. Relative errors up to this lose nothing; twice as much loses
two per cent, the most that is allowed."""
MOST_MARGIN = 0.25
TRIALS = 4
"""Steps of either kind, plain and drafted, wanted near a number of requests before its costs are believed."""
PATIENCE = 4
"""A trial is given up after this many times as many attempts: whether a step can be timed is not ours to decide."""
STALE = 64
"""Steps after which a kind that was not seen again is worth a step of exploration."""
PROBE = 4
"""Most draft tokens a request in a step that is made to learn what more tokens cost."""
EXPLORATION = 0.005
"""Share of all time that exploring may have cost."""


@dataclass(slots=True)
class _Octave:
    """Numbers of requests between two powers of two."""

    attempts: list[int] = field(default_factory=lambda: [0, 0])
    """Trial steps made: plain, drafted."""
    since: list[int] = field(default_factory=lambda: [0, 0])
    """Steps since one was seen: plain, drafted."""
    explored: int = 0
    plain_next: bool = False


class Plan(NamedTuple):
    """How to draft for the next step."""

    draft: bool
    """False: no draft could pay, so none needs to be looked for."""
    costs: Costs | None
    """For `Drafter.step`; None: no bound."""


PLAIN = Plan(False, None)


class AutoBudget:
    """Decides each step's costs and learns from each step's time. Deterministic given its inputs; not thread-safe.

    Args:
        most_draft_tokens: most draft tokens that a step can have, > 0.
        table: costs to begin with; None to begin with nothing.
    """

    def __init__(self, most_draft_tokens: int, table: CostTable | None = None) -> None:
        self.costs = StepCosts(most_draft_tokens, table)
        self.steps = 0
        """Steps observed."""
        self.seconds = 0.0
        """Their time."""
        self.plain_seconds = 0.0
        """Time in which plain decoding would have emitted as much, by the costs as they were known."""
        self.explored_seconds = 0.0
        """Time that exploring lost, estimated."""
        self._octaves: dict[int, _Octave] = {}
        self._seen = [0, 0]  # steps: plain, drafted
        self._exploring = False
        self._priced: tuple[Curve, Plan] | None = None

    def plan(self, requests: int) -> Plan:
        """Return how to draft for the next step with `requests` > 0."""
        octave = self._octaves.setdefault(requests.bit_length(), _Octave())
        curve = self.costs.curve(requests)
        affordable = self.explored_seconds <= EXPLORATION * self.seconds
        known = min(self._seen) >= TRIALS
        seen = (curve.plain_steps, curve.drafted_steps)
        self._exploring = known
        for kind in (0, 1):
            if (
                seen[kind] < TRIALS
                and octave.attempts[kind] < PATIENCE * TRIALS
                and (affordable or not known)
            ):
                octave.attempts[kind] += 1
                return PLAIN if kind == 0 else self._try(octave, curve)
        self._exploring = False
        if not min(self._seen):
            return Plan(True, None)  # steps can't be timed here
        if affordable:
            # The fewer steps a judgement rests on, the sooner it is looked at again.
            stale = [
                count >= min(STALE, max(TRIALS, 4 * steps))
                for count, steps in zip(octave.since, seen, strict=True)
            ]
            if stale[0] or stale[1]:
                self._exploring = True
                octave.since = [0 if old else count for old, count in zip(stale, octave.since, strict=True)]
                # Where drafting is the rule, plain steps and longer drafts by turns: its length may be a trap too.
                octave.plain_next = not octave.plain_next
                return PLAIN if stale[0] and octave.plain_next else self._try(octave, curve)
        if self._priced is None or self._priced[0] is not curve:
            margin = 1 + np.minimum(MARGIN + curve.error, MOST_MARGIN)
            margin[0] = 1
            seconds = curve.seconds * margin
            hopeless = ((requests + curve.draft_tokens) * seconds[0] <= requests * seconds).all()
            plan = PLAIN if hopeless else Plan(True, (curve.draft_tokens, seconds.astype(np.float32)))
            self._priced = curve, plan
        return self._priced[1]

    def observe(self, requests: int, draft_tokens: int, emitted: int, seconds: float) -> None:
        """Take in the time of the step that was planned last.

        Args:
            requests: rows that decoded, > 0; a step with prefill in it is not observed.
            draft_tokens: verified in it.
            emitted: tokens that it brought.
            seconds: from one step's end to the next one's.
        """
        if not (seconds > 0 and math.isfinite(seconds)):
            return
        curve = self.costs.curve(requests)
        if min(self._seen) >= TRIALS:
            plain = float(curve.seconds[0]) * emitted / requests
            # What is out of line says nothing of drafting: a pause, another process.
            expected = float(np.interp(draft_tokens, curve.draft_tokens, curve.seconds))
            spent = min(seconds, 4 * expected)
            self.steps += 1
            self.seconds += spent
            self.plain_seconds += plain
            if self._exploring:
                # A plain step of exploration loses what drafting would have gained, as far as is known.
                gain = self.plain_seconds / self.seconds - 1
                loss = min(seconds, 1.25 * expected) - plain if draft_tokens else gain * expected
                self.explored_seconds += max(0.0, loss)
        self._exploring = False
        octave = self._octaves.setdefault(requests.bit_length(), _Octave())
        kind = int(draft_tokens > 0)
        self._seen[kind] += 1
        octave.since[kind] = 0
        octave.since[1 - kind] += 1
        self.costs.observe(requests, draft_tokens, seconds)

    @property
    def saving(self) -> float:
        """Share of plain decoding's time that drafting has saved, estimated; negative when it cost time."""
        return 1 - self.seconds / self.plain_seconds if self.plain_seconds else 0.0

    def table(self) -> list[tuple[int, int, float]]:
        """Return what steps are believed to cost: requests, draft tokens and seconds, where requests were seen."""
        curves = [self.costs.curve(2**octave // 2) for octave in sorted(self._octaves)] if self.steps else []
        return [
            (curve.requests, int(tokens), float(seconds))
            for curve in curves
            for tokens, seconds in zip(curve.draft_tokens[::4], curve.seconds[::4], strict=True)
        ]

    def _try(self, octave: _Octave, curve: Curve) -> Plan:
        """Return what makes a drafted step: by turns a token a request, up to `PROBE` of them, and what is best by
        what is known."""
        octave.explored += 1
        turn = octave.explored % 3
        seconds = np.full(curve.seconds.size, curve.seconds[0]) if turn else curve.seconds.copy()
        if turn:
            most = curve.requests * (1 if turn == 1 else PROBE)
            seconds[max(2, int(np.searchsorted(curve.draft_tokens, most, side="right"))) :] = np.inf
        seconds[0] = np.inf
        return Plan(True, (curve.draft_tokens, seconds.astype(np.float32)))
