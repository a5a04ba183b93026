"""Prompt keys: stable, and the same whatever the tokens come in."""

from __future__ import annotations

import numpy as np
import xxhash

from redraft.rollout import Rollout, prompt_key


def test_prompt_key_is_xxh3_128_of_little_endian_int32() -> None:
    tokens = [1, 70000, 2**31 - 1]
    expected = xxhash.xxh3_128_digest(b"".join(t.to_bytes(4, "little") for t in tokens))
    assert prompt_key(tokens) == expected
    assert len(expected) == 16


def test_prompt_key_does_not_depend_on_container_or_dtype() -> None:
    tokens = np.arange(5)
    wide = prompt_key(tokens.tolist())
    assert prompt_key(tokens.astype(np.int32)) == wide
    assert prompt_key(np.arange(10, dtype=np.int32)[::2] // 2) == wide


def test_rollout_carries_its_prompts_key() -> None:
    rollout = Rollout(
        prompt_token_ids=np.array([1, 2], np.int32),
        response_token_ids=np.array([3], np.int32),
        epoch=0,
        step=0,
        sample=0,
    )
    assert rollout.key == prompt_key([1, 2])
