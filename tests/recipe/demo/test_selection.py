import pytest

from redraft.recipe.demo import policy, selection

NAMES = ["gcd", "products", "sums"] * 4


def test_prompts_that_are_solved_sometimes_come_first():
    rates = [0.0, 0.5, 1.0, 0.25, 0.0, 1.0, 0.75, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert selection.sometimes(rates, NAMES, 3) == [1, 3, 6]


def test_tasks_take_turns_as_far_as_possible():
    rates = [0.5] * 12
    assert selection.sometimes(rates, NAMES, 6) == [0, 1, 2, 3, 4, 5]
    rates = [0.5, 0.0, 0.0] * 4
    assert selection.sometimes(rates, NAMES, 4) == [0, 3, 6, 9]


def test_pass_rates_nearest_to_one_half_fill_up():
    rates = [0.0, 0.9, 1.0, 0.5, 0.0, 1.0, 0.0, 0.1, 0.0, 1.0, 0.0, 0.0]
    assert selection.sometimes(rates, NAMES, 3) == [1, 3, 7]


def test_choice_is_made_once(tmp_path):
    config = policy.PolicyConfig(
        hidden=32, intermediate=64, layers=1, heads=2, key_value_heads=1, examples=16
    )
    folder = policy.prepare(tmp_path, config)
    seen = []
    first = selection.choose(
        folder, 3, samples=2, longest=8, report=lambda done, total: seen.append((done, total))
    )
    assert seen == [(18, 18)]
    again = selection.choose(folder, 3, samples=2, longest=8, report=lambda *_: pytest.fail("sampled again"))
    assert [entry for _, entry in again] == [entry for _, entry in first]
