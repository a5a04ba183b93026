from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from redraft.recipe.verl.attempts import Attempt
from redraft.recipe.verl.recorder import EPOCH, OCCURRENCE, OCCURRENCE_STRIDE, Recorder, generation_start
from redraft.recipe.verl.tally import SPEC_KEYS, Slot

TIMES = (10.0, 12.0)


def session(address: str, **changes: Any) -> dict[str, Any]:
    return {"addresses": [address], "run": "run", "vocabulary": {"fingerprint": "f"}, **changes}


def fields(**changes: Any) -> dict[str, Any]:
    return {"uid": "group", "session_id": 0, "global_steps": 3, EPOCH: 1, OCCURRENCE: 0, **changes}


def collect(recorder: Recorder, flush_timeout: float = 20.0) -> dict[str, Any]:
    return asyncio.run(recorder.collect(flush_timeout))


def test_a_finished_rollout_is_in_the_history_with_all_that_is_known_of_it(
    draft_server, make_output, stored
) -> None:
    _, address, data = draft_server
    recorder = Recorder(session(address))
    recorder.record([make_output(reward_score=0.5)], False, fields(session_id=2), TIMES)
    assert collect(recorder)["publisher"]["published"] == 1
    (rollout,) = stored(data, "run")
    assert rollout.prompt_token_ids.tolist() == [1, 2, 3]
    assert rollout.response_token_ids.tolist() == [4, 5, 6, 0]
    assert (rollout.epoch, rollout.step, rollout.sample) == (1, 3, 2)
    assert (rollout.reward, rollout.group_id, rollout.validation) == (0.5, "group", False)


def test_the_same_prompt_twice_in_a_step_is_stored_twice(draft_server, make_output, stored) -> None:
    _, address, data = draft_server
    recorder = Recorder(session(address))
    for occurrence in (0, 1):
        recorder.record(
            [make_output()], False, fields(uid=f"group-{occurrence}", **{OCCURRENCE: occurrence}), TIMES
        )
    collect(recorder)
    assert sorted(rollout.sample for rollout in stored(data, "run")) == [0, OCCURRENCE_STRIDE]


def test_validation_is_marked_or_left_out(draft_server, make_output, stored) -> None:
    _, address, data = draft_server
    for publish in (True, False):
        recorder = Recorder(session(address, run=f"{publish}", publish_validation=publish))
        recorder.record([make_output()], True, fields(), TIMES)
        recorder.record([make_output()], False, fields(), TIMES)
        tallies = collect(recorder)["tallies"]
        assert {slot.validation for slot in tallies} == {True, False}
    assert sorted(rollout.validation for rollout in stored(data, "True")) == [False, True]
    assert [rollout.validation for rollout in stored(data, "False")] == [False]


def test_a_malformed_rollout_is_counted_and_the_others_are_published(
    draft_server, make_output, stored, caplog
) -> None:
    _, address, data = draft_server
    recorder = Recorder(session(address))
    recorder.record([make_output(response_ids=[])], False, fields(), TIMES)
    recorder.record([make_output(response_ids=[-1])], False, fields(session_id=1), TIMES)
    recorder.record([make_output(reward_score=float("nan"))], False, fields(session_id=2), TIMES)
    told = collect(recorder)["publisher"]
    assert told["malformed"] == 2
    assert told["published"] == 1
    (rollout,) = stored(data, "run")
    assert rollout.reward is None
    assert sum("is not published" in message for message in caplog.messages) == 1


def test_without_servers_rollouts_are_only_counted(make_output) -> None:
    counters = dict(zip(SPEC_KEYS, (8, 2, 2), strict=True))
    recorder = Recorder({"steps_per_epoch": 2})
    recorder.record([make_output(extra_fields=counters)], False, fields(), (1.0, 2.0))
    recorder.record([make_output(response_mask=[1, 0, 0, 1])], False, fields(), (1.5, 4.0))
    tally = collect(recorder)["tallies"][Slot(False, 3, 1)]
    assert tally.trajectories == 2
    assert tally.generated_tokens == 6
    assert (tally.drafted, tally.accepted, tally.verify_steps, tally.metered_tokens) == (8, 2, 2, 4)
    assert tally.generation_seconds == 3.0
    assert tally.reward == 1.0


def test_attempts_tell_the_weights_and_which_tokens_were_metered(draft_server, make_output, stored) -> None:
    _, address, data = draft_server
    recorder = Recorder(session(address))
    counters = dict(zip(SPEC_KEYS, (99, 99, 99), strict=True))  # verl's, of the last attempt alone
    output = make_output(response_mask=[1, 1, 0, 1], extra_fields={"min_global_steps": 9, **counters})
    attempts = [Attempt(2, 3, None), Attempt(0, 4, None), Attempt(1, 5, (6, 1, 2))]
    recorder.record([output], False, fields(), TIMES, attempts)
    tally = collect(recorder)["tallies"][Slot(False, 3, 1)]
    assert (tally.generated_tokens, tally.metered_tokens) == (3, 1)
    assert (tally.drafted, tally.accepted, tally.verify_steps) == (6, 1, 2)
    (rollout,) = stored(data, "run")
    assert rollout.response_mask.astype(int).tolist() == [1, 1, 0, 1]
    assert rollout.weight_versions == (3, 5)


@pytest.mark.parametrize(
    ("told", "versions"),
    [({"min_global_steps": 2, "max_global_steps": 4}, (2, 4)), ({"max_global_steps": 4}, None), ({}, None)],
)
def test_without_attempts_verls_own_versions_are_published(
    draft_server, make_output, stored, told, versions
) -> None:
    _, address, data = draft_server
    recorder = Recorder(session(address))
    recorder.record([make_output(extra_fields=told)], False, fields(), TIMES)
    collect(recorder)
    (rollout,) = stored(data, "run")
    assert rollout.weight_versions == versions
    assert rollout.response_mask is None


def test_a_loop_generates_until_it_ends_and_prepares_before(make_output) -> None:
    def start(generate: float, tools: float, outputs: int = 1) -> float:
        metrics = SimpleNamespace(generate_sequences=generate, tool_calls=tools)
        return generation_start([make_output(metrics=metrics)] * outputs, 10.0, 20.0)

    assert start(3.0, 1.0) == 16.0
    assert start(0.0, 0.0) == 10.0  # not measured
    assert start(30.0, 0.0) == 10.0
    assert start(3.0, 1.0, outputs=2) == 10.0


def test_collecting_starts_the_tallies_anew(make_output) -> None:
    recorder = Recorder(None)
    recorder.record([make_output()], False, fields(), TIMES)
    assert collect(recorder)["tallies"]
    assert not collect(recorder)["tallies"]


def test_an_unreachable_server_neither_raises_nor_blocks(make_output) -> None:
    recorder = Recorder(session("127.0.0.1:9"))
    recorder.record([make_output(prompt_ids=np.arange(5))], False, fields(), TIMES)
    told = collect(recorder, flush_timeout=0.2)["publisher"]
    assert told["published"] == 0
    assert told["pending"] == 1


def test_an_epoch_is_zero_when_nothing_tells_it(make_output) -> None:
    recorder = Recorder(None)
    recorder.record([make_output()], False, {"uid": "u", "session_id": 0, "global_steps": 5}, TIMES)
    assert list(collect(recorder)["tallies"]) == [Slot(False, 5, 0)]


@pytest.mark.parametrize("missing", ["global_steps", "session_id"])
def test_a_field_that_verl_always_has_is_not_guessed(make_output, missing: str) -> None:
    recorder = Recorder(session("127.0.0.1:9"))
    with pytest.raises(KeyError, match=missing):
        recorder.record([make_output()], False, {k: v for k, v in fields().items() if k != missing}, TIMES)
