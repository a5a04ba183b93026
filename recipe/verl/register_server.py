"""Importing this module has verl start our server in front of every vLLM engine, whatever trainer asks for one.

For the trainers that have none of ours: `VERL_USE_EXTERNAL_MODULES=redraft.recipe.verl.register_server`, which verl
imports in each of its processes (several modules are separated by commas).
"""

from __future__ import annotations

from typing import Any

from verl.workers.rollout.replica import RolloutReplicaRegistry


def load_replica() -> type[Any]:
    """Return the class, which is imported when the first engine starts and not before."""
    from redraft.recipe.verl.rollout_server import RedraftReplica

    return RedraftReplica


RolloutReplicaRegistry.register("vllm", load_replica)
