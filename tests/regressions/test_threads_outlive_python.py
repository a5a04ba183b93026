"""Background threads that were in the core, or on their way back from it, when Python ended took the process down.

Seen once in the relay's tests, without a trace of where. Everything whose threads call the core is closed before now.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

BEFORE = """
import atexit, threading
# Registered first, so it runs last: who is still there?
atexit.register(lambda: print(sorted(t.name for t in threading.enumerate() if t.name.startswith("redraft-"))))
import numpy as np
prompt = np.arange(1, 9, dtype=np.int32)
"""
SOURCE = """
from redraft.client import DraftSource
source = DraftSource(["127.0.0.1:1"], run="run")
source.prefetch(prompt)
"""
RELAY = """
from redraft import LiveIndex
from redraft.client import Relay
relay = Relay(["127.0.0.1:1"], run="run")
relay.begin(0, prompt, LiveIndex(prompt))
"""
EMBEDDED = """
from redraft.recipe.vllm.responses import EndedResponses
from redraft.recipe.vllm.sources import EmbeddedHistory
ended = EndedResponses(1 << 24)
for _ in range(50):
    ended.add(prompt, np.random.default_rng(0).integers(0, 1000, 5000).astype(np.int32), 0.0)
history = EmbeddedHistory(ended)
for _ in range(20):
    history.group_ended(prompt)
"""


@pytest.mark.parametrize("user", [SOURCE, RELAY, EMBEDDED], ids=["source", "relay", "embedded"])
def test_no_thread_is_left_when_python_ends(user, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + user], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr[-2000:]
