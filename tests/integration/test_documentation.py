"""The example client of doc/protocol.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "doc" / "protocol.md"


def test_the_thin_client_generates_with_drafts_from_history(running, publisher, rollout):
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    text = np.random.default_rng(0).integers(0, 1000, 1200).tolist()
    prompt = [1, 2, 3]
    publish = publisher(running.address, run="example")
    publish.publish(
        [
            rollout(
                prompt_token_ids=np.array(prompt, np.int32), response_token_ids=np.array(text[:900], np.int32)
            )
        ]
    )
    assert publish.flush(20)
    steps = []

    def verify(given: list[int], response: list[int], draft: np.ndarray) -> list[int]:
        """Accept what the target, which always writes `text`, would have written; then one token more."""
        assert given == prompt
        rest = text[len(response) :]
        accepted = 0
        while accepted < len(draft) and draft[accepted] == rest[accepted]:
            accepted += 1
        steps.append(accepted)
        return rest[: accepted + 1]

    response = names["generate"](verify, prompt, address=running.address, run="example")
    assert response == text[: len(response)]
    assert len(response) >= 1000
    assert max(steps) == 8
    assert len(steps) < 300
