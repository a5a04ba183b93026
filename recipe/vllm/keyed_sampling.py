"""Opt-in: a request's noise depends on its seed and the position alone, so that drafting changes no token.

vLLM's rejection sampler is exact, but a request with a seed writes another text with drafting than without: both draw
from the request's generator, in another order. Here every position is sampled by vLLM's own `Sampler`, each with a
generator of its own that is seeded with (request's seed, position), and a draft token is accepted if it is the sampled
one. That is exact whatever the drafts are, even if they knew the noise, and it accepts a draft token d with the same
probability p(d). Where logits agree to the last bit, the tokens do too; `doc/exactness.md` says when they do not.

No kernel is replaced. It is asked for by `REDRAFT_KEYED_SAMPLING=1` in the environment of the engine's processes, with
or without a `speculative_config`, and concerns steps with at least one request that has a seed.

The idea is coupling by common random numbers; noise keyed by position is also how vLLM's second model runner samples.
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

VARIABLE = "REDRAFT_KEYED_SAMPLING"
_MARK = "_redraft_keyed"


def asked_for() -> bool:
    """Tell whether the environment asks for position-keyed sampling."""
    return os.environ.get(VARIABLE) == "1"


def key(seed: int, position: int) -> int:
    """Return the seed of one position's noise, 0 to 2**63 - 1, unrelated to every other position's."""
    digest = hashlib.blake2b(struct.pack("<qq", seed, position), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_by_key(runner_module: ModuleType) -> None:
    """Let `GPUModelRunner` sample by position, where the environment asks for it.

    Trigger: `GPUModelRunner._sample`, which the CPU runner inherits: the one place that calls the samplers.

    Why it is safe: nothing happens without `REDRAFT_KEYED_SAMPLING=1` and a seed in the batch; then the tokens are
    those that vLLM's own `Sampler` draws. Requests with a thinking budget keep vLLM's path, as that sampler's state for
    them knows one position a request only.

    Upstream: seeds that mean another text under speculation are no bug there; no issue is open for it.

    Idempotent: a wrapped method carries a mark. A runner without the method is left alone.
    """
    runner = getattr(runner_module, "GPUModelRunner", None)
    original: Callable[..., Any] | None = getattr(runner, "_sample", None)
    if runner is None or original is None or hasattr(original, _MARK) or not asked_for():
        return

    @functools.wraps(original)
    def _sample(self: Any, logits: Any, spec_decode_metadata: Any) -> Any:
        batch = self.input_batch
        seeds = _seeds(batch.req_ids, self.requests)
        holder = getattr(batch, "thinking_budget_state_holder", None)
        if logits is None or not seeds or (holder is not None and holder.has_tracked_requests()):
            return original(self, logits, spec_decode_metadata)
        batch.update_async_output_token_ids()
        begins = {row: (seed, int(batch.num_tokens_no_spec[row])) for row, seed in seeds.items()}
        if spec_decode_metadata is None:
            generators = _generators(((row, 0), seeded) for row, seeded in begins.items())
            metadata = replace(batch.sampling_metadata, generators={i: g for (i, _), g in generators.items()})
            return self.sampler(logits=logits, sampling_metadata=metadata)
        return sample_positions(
            self.sampler,
            logits,
            batch.sampling_metadata,
            spec_decode_metadata.draft_token_ids,
            spec_decode_metadata.num_draft_tokens,
            begins,
        )

    setattr(_sample, _MARK, original)
    runner._sample = _sample


def sample_positions(
    sampler: Any,
    logits: torch.Tensor,
    metadata: Any,
    draft_token_ids: torch.Tensor,
    counts: list[int],
    begins: Mapping[int, tuple[int, int]],
) -> Any:
    """Sample every drafted position and the one behind the draft, and keep what follows accepted drafts.

    Args:
        sampler: vLLM's `Sampler`.
        logits: float, shape (num_drafted + b, vocab_size): for each request in turn those of its drafted positions,
            then of the position behind.
        metadata: vLLM's `SamplingMetadata` for the b requests; not changed.
        draft_token_ids: int, shape (num_drafted,), the requests' drafts one after another.
        counts: draft tokens of each request.
        begins: by request, for those that have a seed: the seed, and the first position that is sampled.

    Returns:
        vLLM's `SamplerOutput`, as its `RejectionSampler` returns it: `sampled_token_ids` int32, shape (b, 1 + largest
        count), -1 behind what a request emits; `logprobs_tensors`, if wanted, has a row for each of its entries.
    """
    device, most = logits.device, max(counts)
    widths = torch.tensor(counts) + 1
    offsets = torch.arange(most + 1)
    inside = offsets < widths[:, None]  # (b, most + 1): an entry that was sampled
    starts = (widths.cumsum(0) - widths)[:, None]
    rows = (starts + offsets).clamp(max=len(logits) - 1)  # by entry: its row of `logits`
    requests = torch.repeat_interleave(torch.arange(len(counts)), widths)
    positions = [(request, j) for request, count in enumerate(counts) for j in range(count + 1)]
    output = sampler(logits, _expanded(metadata, requests, positions, draft_token_ids, counts, begins))
    sampled = output.sampled_token_ids.flatten()

    entries = sampled[rows.to(device)]
    drafted = torch.full_like(entries, -1)
    drafted[(offsets < widths[:, None] - 1).to(device)] = draft_token_ids.to(entries.dtype)
    accepted = (entries == drafted).to(torch.int32).cumprod(1).sum(1, keepdim=True)
    kept = (offsets.to(device) <= accepted) & inside.to(device)
    logprobs = output.logprobs_tensors
    if logprobs is not None:
        index = rows.flatten().to(device)
        logprobs = logprobs._replace(
            logprob_token_ids=logprobs.logprob_token_ids[index],
            logprobs=logprobs.logprobs[index],
            selected_token_ranks=logprobs.selected_token_ranks[index],
        )
    return replace(
        output, sampled_token_ids=torch.where(kept, entries, -1).to(torch.int32), logprobs_tensors=logprobs
    )


class _ByPosition:
    """A logits processor of vLLM's that knows drafts, over all positions of every request."""

    def __init__(self, processor: Any, rows: list[int]) -> None:
        self._processor, self._rows = processor, rows

    def is_argmax_invariant(self) -> bool:
        return bool(self._processor.is_argmax_invariant())

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self._processor.apply_with_spec_decode(logits, self._rows)
        return result


def _expanded(
    metadata: Any,
    requests: torch.Tensor,
    positions: list[tuple[int, int]],
    draft_token_ids: torch.Tensor,
    counts: list[int],
    begins: Mapping[int, tuple[int, int]],
) -> Any:
    """Return the metadata with a row for each position, as if each were a request that had emitted its drafts."""
    from vllm.v1.sample.logits_processor import LogitsProcessors

    def by_row(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values[requests.to(values.device)]

    outputs: list[list[int]] = []
    if metadata.output_token_ids:
        tokens = [draft.tolist() for draft in torch.split(draft_token_ids, counts)]
        outputs = [[*metadata.output_token_ids[i], *tokens[i][:j]] for i, j in positions]
    seeded = (((row, j), begins[i]) for row, (i, j) in enumerate(positions) if i in begins)
    rows = [count + 1 for count in counts]
    generators = {row: generator for (row, _), generator in _generators(seeded).items()}
    words, wanted = metadata.bad_words_token_ids, metadata.logprob_token_ids
    return replace(
        metadata,
        temperature=by_row(metadata.temperature),
        top_p=by_row(metadata.top_p),
        top_k=by_row(metadata.top_k),
        generators=generators,
        prompt_token_ids=by_row(metadata.prompt_token_ids),
        frequency_penalties=by_row(metadata.frequency_penalties),
        presence_penalties=by_row(metadata.presence_penalties),
        repetition_penalties=by_row(metadata.repetition_penalties),
        output_token_ids=outputs,
        spec_token_ids=None,
        allowed_token_ids_mask=by_row(metadata.allowed_token_ids_mask),
        bad_words_token_ids={row: words[i] for row, (i, _) in enumerate(positions) if i in words},
        logprob_token_ids=wanted and {row: wanted[i] for row, (i, _) in enumerate(positions) if i in wanted},
        logitsprocs=LogitsProcessors(_ByPosition(p, rows) for p in metadata.logitsprocs.all),
    )


def _seeds(req_ids: Iterable[str], requests: Mapping[str, Any]) -> dict[int, int]:
    """Return the seeds of the batch's rows that have one."""
    found = {}
    for row, request_id in enumerate(req_ids):
        seed = getattr(requests[request_id].sampling_params, "seed", None)
        if seed is not None:
            found[row] = seed
    return found


def _generators(
    rows: Iterable[tuple[tuple[int, int], tuple[int, int]]],
) -> dict[tuple[int, int], torch.Generator]:
    """Return ((row, offset) -> generator) for ((row, offset), (seed, first position))."""
    return {
        (row, offset): torch.Generator(_device()).manual_seed(key(seed, first + offset))
        for (row, offset), (seed, first) in rows
    }


def _device() -> str:
    from vllm.platforms import current_platform

    return str(current_platform.device_type)
