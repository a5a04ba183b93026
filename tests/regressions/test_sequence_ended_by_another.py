"""A sequence of a drafter's request, ended by somebody else, made the next step read beyond the live index."""

import numpy as np

from redraft import Drafter, FrozenIndex, LiveIndex


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def test_a_request_whose_sequence_another_owner_ended_drafts_from_history_and_closes():
    history = FrozenIndex.build(ids(1, 2, 3, 4, 5), np.array([0, 5], dtype=np.int64))
    live = LiveIndex(ids(9))
    drafter = Drafter(min_survival=0.0)
    request = drafter.open(live, history=history)
    live.end_sequence(0)
    batch = drafter.step(ids(request), ids(1, 2), ids(0, 2), ids(3))
    assert batch.token_ids.tolist() == [3, 4, 5]
    assert drafter.stats()["live_dropped"].tolist() == [1]
    drafter.close(request)
    assert drafter.num_requests == 0


def test_so_does_one_for_which_the_step_brings_no_token():
    live = LiveIndex(ids(9))
    drafter = Drafter(min_survival=0.0)
    request = drafter.open(live)
    live.end_sequence(0)
    assert drafter.step(ids(request), ids(), ids(0, 0), ids(3)).token_ids.tolist() == []
    drafter.close(request)
