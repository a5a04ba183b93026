"""Responses with weight versions whose token ids all fit 16 bits could not be read again.

The high halves of the ids were stored whenever any flag was set, but read only when their own was.
"""

from __future__ import annotations

import numpy as np

from redraft.server import codec
from redraft.server.history import ResponseRecord


def test_weight_versions_can_be_read_again():
    (decoded,) = codec.decode(
        codec.encode([ResponseRecord(0, np.arange(3, dtype=np.int32), versions=(1, 2))])
    )
    assert decoded.token_ids.tolist() == [0, 1, 2]
    assert decoded.versions == (1, 2)
