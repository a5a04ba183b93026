"""A verl reward manager that also writes down the rollouts as verl has them; runs in verl's own processes."""

from __future__ import annotations

import json
import os
from typing import Any

from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase


class RecordingRewardManager(RewardManagerBase):
    """Rewards even token ids, and appends each rollout to the file in REDRAFT_TEST_RECORD."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, *_: Any, **__: Any) -> None:
        super().__init__(config, tokenizer, compute_score)

    async def run_single(self, data: Any) -> dict[str, Any]:
        item = data[-1]
        mask = item.batch["attention_mask"].bool()
        split = item.batch["prompts"].shape[-1]
        prompt = item.batch["prompts"][mask[:split]].tolist()
        response = item.batch["responses"][mask[split:]].tolist()
        reward = sum(token % 2 == 0 for token in response) / len(response)
        # Trainers from before V1 have their rows' numbers elsewhere.
        columns = {k: item.non_tensor_batch.get(k, -1) for k in ("uid", "session_id", "global_steps")}
        row = {
            "prompt": prompt,
            "response": response,
            "reward": reward,
            "split": item.non_tensor_batch["extra_info"]["split"],
            **{k: str(v) if k == "uid" else int(v) for k, v in columns.items()},
        }
        with open(os.environ["REDRAFT_TEST_RECORD"], "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return {"reward_score": reward, "reward_extra_info": {"acc": reward}}
