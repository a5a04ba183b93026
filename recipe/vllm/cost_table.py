"""Measures what a step of a vLLM engine costs, by requests and draft tokens: `redraft bench cost-table`."""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from redraft.cost_table import CostTable


class FixedProposer:
    """Drafts a given number of random tokens, spread evenly over the batch; for measuring only."""

    draft_tokens = 0
    """Tokens that the next step verifies, all requests together; set by `measure`, in the engine's own process."""

    def __init__(self, vllm_config: Any) -> None:
        self._draw = random.Random(1)
        self._vocab_size = vllm_config.model_config.get_vocab_size()

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: there is no model."""

    def propose(self, sampled_token_ids: list[list[int]], *args: Any, **kwargs: Any) -> list[list[int]]:
        """Return each row's share."""
        each, more = divmod(FixedProposer.draft_tokens, len(sampled_token_ids))
        return [
            [self._draw.randrange(1, self._vocab_size) for _ in range(each + (row < more))]
            for row in range(len(sampled_token_ids))
        ]


def measure(
    model: str,
    requests: Sequence[int],
    *,
    most_drafts: int,
    repeats: int,
    prompt_length: int,
    dtype: str,
    progress: Callable[[int], None],
) -> CostTable:
    """Return the median seconds of a decode step of an engine in this process.

    The numbers of draft tokens take turns from step to step, so that whatever else the machine does hits all alike.

    Args:
        model: folder of a Hugging Face model.
        requests: numbers of running requests, rising.
        most_drafts: most draft tokens a request.
        repeats: steps for each cell.
        prompt_length: of each request, in tokens.
        dtype: as vLLM takes it.
        progress: called with each number of requests that is done.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is told here what to draft
    import torch
    import vllm
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    columns = sorted({0, *(2**i for i in range((most_drafts * requests[-1]).bit_length()))})
    steps = repeats * (len(columns) + 1) + 16
    most_tokens = steps * 4 // 3  # a random draft is hardly ever accepted
    longest = prompt_length + most_tokens + most_drafts + 1
    engine = LLM(
        model,
        dtype=dtype,
        enforce_eager=not torch.cuda.is_available(),
        max_model_len=longest,
        max_num_seqs=requests[-1],
        max_num_batched_tokens=max(2048, requests[-1] * (most_drafts + 1)),
        enable_prefix_caching=False,
        seed=1,
        speculative_config={
            "method": "custom_class",
            "model": f"{__name__}.FixedProposer",
            "num_speculative_tokens": most_drafts,
        },
    )
    core = engine.llm_engine
    vocab_size = core.model_config.get_vocab_size()
    draw = random.Random(1)
    rows = []
    for count in requests:
        sampling = SamplingParams(temperature=1, max_tokens=most_tokens, ignore_eos=True, detokenize=False)
        names = []
        for i in range(count):
            prompt = [draw.randrange(1, vocab_size) for _ in range(prompt_length)]
            name = f"{count}-{i}"
            names.append(core.add_request(name, TokensPrompt(prompt_token_ids=prompt), sampling) or name)
        FixedProposer.draft_tokens = 0
        for _ in range(8):  # prefill, and what the first steps prepare
            core.step()
        mine = [tokens for tokens in columns if tokens <= count * most_drafts]
        seconds: dict[int, list[float]] = {tokens: [] for tokens in mine}
        verified = 0
        for tokens in [*mine * repeats, 0]:
            FixedProposer.draft_tokens = tokens  # drafted at the end of this step, verified in the next
            started = time.perf_counter()
            core.step()
            seconds[verified].append(time.perf_counter() - started)
            verified = tokens
        core.abort_request(names)
        FixedProposer.draft_tokens = 0
        for _ in range(3):
            core.step()
        medians = np.asarray([np.median(seconds[tokens]) for tokens in mine])
        known = CostTable("", "", np.zeros(0), np.asarray(mine, np.float64), medians[None])
        rows.append(known.seconds_at(0, np.asarray(columns)))
        progress(count)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    threads = "" if torch.cuda.is_available() else f", {torch.get_num_threads()} threads"
    return CostTable(
        name=os.path.basename(os.path.normpath(model)),
        source=(
            f"measured with `redraft bench cost-table`: vLLM {vllm.__version__}, {dtype}, {device}{threads}, prompts"
            f" of {prompt_length} tokens, median of {repeats} steps"
        ),
        requests=np.asarray(requests, np.float64),
        draft_tokens=np.asarray(columns, np.float64),
        seconds=np.stack(rows),
    )
