"""`redraft bench index` let a request that had ended go on in the same sequence, so that its own earlier pass drafted
it: ten tokens a step on responses that other responses foretell by three."""

from __future__ import annotations

import numpy as np

from redraft.benchmarks.groups import Group, Trace
from redraft.benchmarks.index import STEPS, measure_step


def test_a_request_that_starts_over_knows_nothing_of_its_earlier_pass() -> None:
    length = STEPS // 4  # each starts over three times
    old, new = (np.arange(first, first + length, dtype=np.int32) for first in (0, 1_000))
    trace = Trace("nothing in common", [Group(np.array([5_000], np.int32), [old, new])])
    _, tokens_per_step = measure_step(trace, "longest")
    assert tokens_per_step == 1
