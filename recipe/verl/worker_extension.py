"""A method on vLLM's workers that tells how the proposer fares; loaded by vLLM in each worker process."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class RedraftWorkerExtension(vLLMColocateWorkerExtension):
    """verl's extension, and the counters of this worker's proposer."""

    def redraft_stats(self) -> list[dict[str, Any]]:
        """Return redraft.recipe.vllm.reporting.Stats of each proposer in this process, as dicts."""
        from redraft.recipe.vllm.proposer import proposers

        return [asdict(proposer.stats()) for proposer in proposers()]
