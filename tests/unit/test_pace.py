"""Messages keep a rate on average, and make up for a delay."""

from __future__ import annotations

import pytest

from redraft.client.pace import Pace

INTERVAL = 0.02


def sends(wakes: list[float], held_up: dict[int, float]) -> list[float]:
    """Return when messages are sent if something to send comes up at `wakes`, each sent `held_up` too late."""
    pace, at, times = Pace(INTERVAL), float("-inf"), []
    for i, wake in enumerate(wakes):
        at = max(wake, at)
        at += pace.wait(at) + held_up.get(i, 0.0)
        pace.sent(at)
        times.append(at)
    return times


def test_a_late_message_does_not_make_those_behind_it_late():
    steps = [INTERVAL * i for i in range(50)]
    times = sends(steps, {10: 0.015, 20: 0.01, 30: 0.018})
    late = [at - step for at, step in zip(times, steps, strict=True)]
    assert [i for i, each in enumerate(late) if each > 1e-9] == [10, 20, 30]


@pytest.mark.parametrize("every", [0.0, 0.001, 0.019])
def test_the_rate_holds_on_average(every):
    times = sends([every * i for i in range(1000)], {})
    assert times[-1] - times[0] >= (len(times) - 2) * INTERVAL - 1e-9


def test_after_a_pause_two_messages_may_follow_each_other_and_no_more():
    pace = Pace(INTERVAL)
    pace.sent(0.0)
    assert pace.wait(0.001) == pytest.approx(0.0)
    for expected in (0.0, 0.0, INTERVAL):
        assert pace.wait(10.0) == pytest.approx(expected)
        pace.sent(10.0)
