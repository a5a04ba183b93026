"""verl's vLLM server, handing each request's speculation counters on to the agent loop, and the proposer's to us.

vLLM (0.32 and later) attaches them to a request's last output when `per_request_spec_decode_metrics` is set;
verl 0.9.1 drops them there. They are exact for each trajectory and survive a dead draft server.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import AsyncIterator
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from redraft.recipe.verl.tally import SPEC_KEYS

VERL_WORKER_EXTENSION = "verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension"
WORKER_EXTENSION = "redraft.recipe.verl.worker_extension.RedraftWorkerExtension"


class EngineTap:
    """An `AsyncLLM` that remembers the speculation counters of each request that ends.

    Everything but `generate` and `pause_generation` is the engine's own. A request's counters are kept until
    `counters` takes them or the request fails.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._counters: dict[str, tuple[int, int, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def pause_generation(
        self, *, wait_for_inflight_requests: bool = False, mode: str | None = None, clear_cache: bool = True
    ) -> None:
        """Pause the engine, whichever way its vLLM wants to be told what becomes of running requests.

        verl 0.9.1 passes `wait_for_inflight_requests`, which later vLLMs (0.32 is one) call `mode`.
        """
        if "mode" in inspect.signature(self._engine.pause_generation).parameters:
            how: dict[str, Any] = {"mode": mode or ("wait" if wait_for_inflight_requests else "abort")}
        else:
            how = {"wait_for_inflight_requests": wait_for_inflight_requests or mode == "wait"}
        await self._engine.pause_generation(clear_cache=clear_cache, **how)

    async def generate(self, *args: Any, request_id: str, **kwargs: Any) -> AsyncIterator[Any]:
        """Yield the engine's outputs."""
        async for output in self._engine.generate(*args, request_id=request_id, **kwargs):
            metrics = getattr(output.outputs[0], "spec_decode_metrics", None) if output.outputs else None
            if metrics is not None:
                told = metrics.to_dict()
                self._counters[request_id] = (
                    int(told["num_draft_tokens"]),
                    int(told["num_accepted_draft_tokens"]),
                    int(told["num_spec_steps"]),
                )
            yield output

    def counters(self, request_id: str) -> tuple[int, int, int] | None:
        """Return and forget (drafted, accepted, steps that verified a draft) of a request; None when unknown."""
        return self._counters.pop(request_id, None)


class RedraftHttpServer(vLLMHttpServer):
    """Adds the counters to `TokenOutput.extra_fields` under verl's own names, and tells the proposer's."""

    engine: Any

    def _get_worker_extension_cls(self) -> str:
        extension: str = super()._get_worker_extension_cls()
        return WORKER_EXTENSION if extension == VERL_WORKER_EXTENSION else extension

    async def redraft_stats(self) -> list[dict[str, Any]]:
        """Return the counters of this engine's proposers; [] on a node that only lends its devices."""
        if not isinstance(getattr(self, "engine", None), EngineTap):
            return []
        return [stats for worker in await self.engine.collective_rpc("redraft_stats") for stats in worker]

    async def run_server(self, args: Any) -> None:
        """Start the engine as verl does, then listen in."""
        await super().run_server(args)
        self.engine = EngineTap(self.engine)

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **kwargs: Any
    ) -> Any:
        """Generate as verl does."""
        try:
            output = await super().generate(prompt_ids, sampling_params, request_id, **kwargs)
        finally:
            tap = getattr(self, "engine", None)
            counters = tap.counters(request_id) if isinstance(tap, EngineTap) else None
        if counters is not None:
            output.extra_fields.update(zip(SPEC_KEYS, counters, strict=True))
        return output


class RedraftReplica(vLLMReplica):
    """A replica whose servers are `RedraftHttpServer`s."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(RedraftHttpServer)


def load_replica() -> type[RedraftReplica]:
    """Return the class, for `RolloutReplicaRegistry.register`."""
    return RedraftReplica


def engine_reports_requests() -> bool:
    """Return whether this vLLM can report speculation for each request (0.32 and later)."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return any(f.name == "per_request_spec_decode_metrics" for f in dataclasses.fields(AsyncEngineArgs))
