"""The proposer's options, from vLLM's configuration and the environment."""

from __future__ import annotations

import pytest

from redraft.errors import InvalidArgument
from redraft.recipe.vllm.options import Options, load_options


def test_without_anything_the_defaults_hold():
    assert load_options({}, {}) == Options()
    assert load_options(None, {}) == Options()
    assert load_options({"somebody_elses": 1}, {}) == Options()


def test_the_environment_is_read():
    options = load_options({}, {"REDRAFT_ADDRESSES": "a:1, b:2,", "REDRAFT_RUN": "r", "REDRAFT_BUDGET": "64"})
    assert options.addresses == ("a:1", "b:2")
    assert (options.run, options.budget) == ("r", 64)


def test_the_configuration_wins_over_the_environment():
    options = load_options(
        {"redraft": {"run": "mine", "addresses": ["h:1"], "min_survival": 1}},
        {"REDRAFT_RUN": "other", "REDRAFT_MIN_SURVIVAL": "0.5", "REDRAFT_STRICT": "1"},
    )
    assert (options.run, options.addresses, options.min_survival, options.strict) == (
        "mine",
        ("h:1",),
        1.0,
        True,
    )


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        (
            {"adress": "a:1"},
            {},
            r'^additional_config\["redraft"\]\["adress"\]: no such option; there are addresses, ',
        ),
        ([1], {}, r'^additional_config\["redraft"\]: '),
        ({"addresses": "localhost"}, {}, r'^addresses: "localhost" is not "host:port"'),
        ({"addresses": "h:0"}, {}, r"^addresses: "),
        ({"addresses": "h:70000"}, {}, r"^addresses: "),
        ({"addresses": 5}, {}, r"^addresses: "),
        ({"run": ""}, {}, r"^run: "),
        ({"run": 3}, {}, r"^run: "),
        ({"policy": "shortest"}, {}, r"^policy: 'shortest' is none of blend, longest"),
        ({"min_survival": 1.5}, {}, r"^min_survival: 1.5 is not between 0 and 1"),
        ({"min_survival": True}, {}, r"^min_survival: "),
        ({"budget": -2}, {}, r"^budget: "),
        ({"budget": 1.5}, {}, r"^budget: "),
        ({"threads": 0}, {}, r"^threads: 0 is not > 0"),
        ({"history_tokens": -1}, {}, r"^history_tokens: "),
        ({"report_seconds": 0}, {}, r"^report_seconds: "),
        ({"log_seconds": float("nan")}, {}, r"^log_seconds: "),
        ({"strict": "yes"}, {}, r"^strict: "),
        ({}, {"REDRAFT_BUDGET": "many"}, r"^REDRAFT_BUDGET: 'many' is not a whole number"),
        ({}, {"REDRAFT_ADDRESSES": "h:x"}, r"^addresses: "),
    ],
)
def test_a_wrong_option_is_named(given, environment, message):
    with pytest.raises(InvalidArgument, match=message):
        load_options({"redraft": given}, environment)


def test_the_budget_is_automatic_or_a_number():
    assert load_options({"redraft": {"budget": "auto"}}, {}).budget == "auto"
    assert load_options({"redraft": {"budget": "-1"}}, {"REDRAFT_BUDGET": "auto"}).budget == -1
    with pytest.raises(InvalidArgument, match=r"^cost_table: "):
        load_options({"redraft": {"budget": 5, "cost_table": "x.json"}}, {})
