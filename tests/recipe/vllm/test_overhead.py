"""What the overhead benchmark makes of the engines' times."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from redraft.recipe.vllm.overhead import PLAIN, compare


def test_the_overhead_is_that_of_steps_made_at_the_same_time():
    costs = {
        PLAIN: [1.0, 5.0, 2.0, 1.0],
        "redraft": [1.1, 5.5, 2.2, 1.1],
    }  # the machine was busy now and then

    def engine(name):
        parts = {} if name == PLAIN else {"drafting": 0.01, "taking": 0.02}
        answers = iter([{}, *({"cpu": cpu, "wall": 2.0, **parts} for cpu in costs[name])])
        return SimpleNamespace(send=lambda order: None, answer=lambda: next(answers))

    plain, redraft = compare({name: engine(name) for name in costs}, 16, 4, 10)
    assert (plain.overhead, plain.error) == (0.0, 0.0)
    assert redraft.overhead == pytest.approx(0.1)
    assert redraft.error == pytest.approx(0.0, abs=1e-9)
    assert redraft.cpu == pytest.approx(0.165)
    assert (redraft.drafting, redraft.taking) == (pytest.approx(0.001), pytest.approx(0.002))
    assert redraft.known_share == pytest.approx(0.003 / 0.15)
    assert (plain.drafting, plain.taking, plain.known_share) == (None, None, None)
