"""A vLLM or a configuration that redraft can't work with is refused at start, with what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def messages(run_engine, tiny_model):
    return run_engine(Path(__file__).parent / "engines" / "refusals.py", {"model": str(tiny_model)})


def test_a_wrong_address_stops_the_engines_start_and_is_named(messages):
    assert 'addresses: "nowhere" is not "host:port"' in messages["addresses"]


def test_an_untested_vllm_is_refused_unless_overridden(messages):
    assert messages["version"].startswith("FailedPrecondition: vllm 0.")
    assert "REDRAFT_ALLOW_UNTESTED_VLLM=1" in messages["version"]
    assert "overridden" not in messages


def test_more_speculative_tokens_than_vllm_verifies_are_refused(messages):
    assert messages["tokens"].startswith("InvalidArgument: num_speculative_tokens: 200 ")


def test_ranks_that_schedule_by_themselves_are_refused(messages):
    assert messages["external"].startswith("FailedPrecondition: distributed_executor_backend: ")


def test_a_rule_that_changes_the_distribution_is_refused(messages):
    assert messages["rule"].startswith('FailedPrecondition: rejection_sample_method: with "synthetic" ')


def test_what_is_right_is_accepted(messages):
    assert not {"good", "block"} & messages.keys()
