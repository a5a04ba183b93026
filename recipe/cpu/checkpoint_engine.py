"""Weights from the actor to engines of their own on one machine, through files in shared memory.

verl's asynchronous trainer with separate engines (`trainer.v1.trainer_mode=separate_async`) refuses to hand weights
over within a process, and its other ways need devices. Select this one by
`actor_rollout_ref.rollout.checkpoint_engine.backend=shared_memory`; redraft_cpu_trainer.yaml has verl import it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

_FOLDER = Path("/dev/shm")
_POLL_SECONDS = 0.01


@CheckpointEngineRegistry.register("shared_memory")
class SharedMemoryEngine(CheckpointEngine):
    """Writes all weights to one file, which every engine's worker on the machine reads.

    Args:
        bucket_size: verl's; not heeded, the file holds the model.
        is_master: whether this is the actor's first process, the one that writes.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self._is_master = is_master
        self._folder: Path | None = None

    def prepare(self) -> dict[str, Any]:
        """Make the folder of this update; return what the others need to find it."""
        if not self._is_master:
            return {}
        folder = tempfile.mkdtemp(prefix="redraft-weights-", dir=_FOLDER if _FOLDER.is_dir() else None)
        return {"folder": folder}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Tell everybody the folder, and who has to remove it."""
        folder = metadata[0]["folder"]
        return {"folder": [folder] * actor_wg_world_size}, {"folder": [folder] * rollout_world_size}

    def init_process_group(self, folder: str) -> None:
        """Take the folder of this update."""
        self._folder = Path(folder)

    def finalize(self) -> None:
        """Remove the folder, when everybody has read it."""
        if self._is_master and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    @torch.no_grad()
    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> None:
        """Write the weights; the actor's other processes only take part in gathering them."""
        gathered = {}
        for name, weight in weights:
            if self._is_master:
                # A copy of its own: tied weights share theirs, which safetensors refuses.
                gathered[name] = weight.detach().cpu().clone(memory_format=torch.contiguous_format)
        if self._is_master:
            assert self._folder is not None
            save_file(gathered, self._folder / "part")
            (self._folder / "part").rename(self._folder / "weights")

    async def receive_weights(
        self, global_steps: int | None = None
    ) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """Yield the weights once they are all there."""
        assert self._folder is not None
        file = self._folder / "weights"
        while not file.exists():
            await asyncio.sleep(_POLL_SECONDS)
        for name, weight in load_file(file).items():
            yield name, weight
