"""The demo's tasks: reasoning-gym problems, worked solutions to learn from, and the reward.

The problems, their answers and the scorer are reasoning-gym's. What it lacks are solutions with their steps,
which a policy needs to see before reinforcement learning can improve on them; those are written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from random import Random
from typing import Any

import reasoning_gym

Entry = dict[str, Any]
"""A reasoning-gym problem: `question`, `answer` and `metadata`."""

# Seeds of the two streams. reasoning-gym derives problem i from seed + i, so the gaps are wide.
SUPERVISED_SEED = 1_000_000_000
TRAIN_SEED = 7_000


@dataclass(frozen=True)
class Task:
    """A reasoning-gym generator with its settings and the way to write a solution down."""

    name: str
    options: dict[str, Any]
    solve: Callable[[Entry, Random], str]
    share: int = 1
    """How many supervised examples it gets, relative to the others."""

    def problems(self, seed: int) -> Iterator[Entry]:
        """Yield problems without end; equal seeds yield equal problems."""
        for block in count():
            size = 1000
            yield from reasoning_gym.create_dataset(
                self.name, seed=seed + block * size, size=size, **self.options
            )


def _write(opening: tuple[str, str, str], steps: list[str], answer: int, style: int) -> str:
    """Lay the steps out in one of three styles, as a corpus from several hands would.

    Only the second style ends with the tags that the reward looks for. So the trained policy often reasons well and
    scores nothing, and to answer in the wanted form is the first thing that reinforcement learning teaches it, as
    it is with large models; to reason better takes far more steps than a demo has.
    """
    lines = [opening[style], *((step, f"Then {step}.", f"- {step}")[style] for step in steps)]
    closing = (f"So the answer is {answer}.", f"Therefore: <answer>{answer}</answer>", f"Result: {answer}")[
        style
    ]
    return "\n".join([*lines, closing])


def solve_gcd(entry: Entry, rng: Random) -> str:
    """Euclid's algorithm, one division a line."""
    a, b = sorted(entry["metadata"]["numbers"], reverse=True)
    opening = ("We use the Euclidean algorithm.", f"Divide {a} by {b} and repeat.", "Euclid:")
    steps = []
    while b:
        steps.append(f"{a} = {a // b} * {b} + {a % b}")
        a, b = b, a % b
    return _write(opening, steps, a, rng.randrange(3))


def solve_products(entry: Entry, rng: Random) -> str:
    """Multiply tens and ones with each other, then add the parts."""
    left, right = (int(part) for part in entry["metadata"]["expression"].split(" * "))
    pairs = [(x, y) for x in _tens_and_ones(left) for y in _tens_and_ones(right)]
    steps = [f"{x} * {y} = {x * y}" for x, y in pairs]
    total, *rest = (x * y for x, y in pairs)
    for part in rest:
        before, total = total, total + part
        steps.append(f"{before} + {part} = {total}")
    opening = (f"We split {left} and {right}.", f"Multiply {left} by {right}.", "Partial products:")
    return _write(opening, steps, total, rng.randrange(3))


def _tens_and_ones(number: int) -> list[int]:
    return [part for part in (number // 10 * 10, number % 10) if part] or [0]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("gcd", {"max_value": 100}, solve_gcd),
        Task(
            "products",
            {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
            solve_products,
        ),
    )
}


def supervised_examples(seed: int) -> Iterator[tuple[str, str]]:
    """Yield (question, worked solution) without end, the tasks in turn."""
    rng = Random(seed)
    streams = [(t, t.problems(SUPERVISED_SEED + seed)) for t in TASKS.values() for _ in range(t.share)]
    while True:
        for task, problems in streams:
            entry = next(problems)
            yield entry["question"], task.solve(entry, rng)


@cache
def _scorer(name: str) -> Callable[[str | None, Entry], float]:
    return reasoning_gym.get_score_answer_fn(name)


def score(name: str, response: str, entry: Entry) -> float:
    """Return reasoning-gym's own score, 0 to 1, of the last `<answer>` in `response`.

    A response without an answer scores 0.
    """
    answer = reasoning_gym.utils.extract_answer(response)
    return 0.0 if answer is None else float(_scorer(name)(answer, entry))
