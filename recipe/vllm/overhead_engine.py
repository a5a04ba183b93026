"""One engine in a process of its own that steps when it is told to and says what its steps cost.

Speaks JSON lines: settings come first, then `{"requests": n}` to (re)start a batch, `{"steps": n}` to make steps and
`{}` to end; every line but the last is answered. Run as `python -m redraft.recipe.vllm.overhead_engine`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_STEPS = 8
"""Steps before a batch is measured: prefill, and what the first decode steps prepare."""


class EmptyProposer:
    """Drafts nothing and does nothing: what is left is vLLM's own."""

    def __init__(self, vllm_config: Any) -> None:
        """Take vLLM's configuration and look at nothing of it."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: there is no model."""

    def propose(self, sampled_token_ids: list[list[int]], *args: Any, **kwargs: Any) -> list[list[int]]:
        """Return an empty row for each request."""
        return [[] for _ in sampled_token_ids]


def make_config(
    folder: Path, *, layers: int, hidden: int, heads: int, kv_heads: int, vocab_size: int
) -> None:
    """Write the configuration of a Llama of this shape; its weights are vLLM's dummy ones.

    Args:
        folder: where `config.json` goes.
        layers: transformer blocks.
        hidden: width, a multiple of `heads`.
        heads: attention heads.
        kv_heads: of keys and values.
        vocab_size: tokens.
    """
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 8 * hidden // 3 // 32 * 32,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab_size,
        "max_position_embeddings": 8192,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


class Engine:
    """An engine and the batch that it decodes.

    Args:
        settings: "model" (a folder), "speculative_config" (or None), "additional_config", "async_scheduling",
            "most_requests", "longest", "dtype", "switches" (redraft's, for comparisons).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process: its CPU time is the step's
        from vllm import LLM

        more = {}
        if settings["speculative_config"] is not None:
            more["speculative_config"] = settings["speculative_config"]
        self._longest = settings["longest"]
        self._core = LLM(
            settings["model"],
            skip_tokenizer_init=True,
            load_format=settings["load_format"],
            dtype=settings["dtype"],
            enforce_eager=True,
            max_model_len=self._longest + 192,
            max_num_seqs=settings["most_requests"],
            max_num_batched_tokens=8192,
            enable_prefix_caching=False,
            async_scheduling=settings["async_scheduling"],
            additional_config=settings["additional_config"],
            seed=1,
            disable_log_stats=True,
            **more,
        ).llm_engine
        self._names: list[str] = []
        self._batches = 0
        self._spent: dict[str, float] = {}
        from redraft.recipe.vllm.proposer import proposers

        for proposer in proposers():
            self._time(proposer, "rests", "drafting")
            self._time(proposer, "before_propose", "drafting")
            self._time(proposer, "propose", "drafting")
        if settings["speculative_config"] is not None:
            self._time(self._core.engine_core.engine_core.model_executor, "take_draft_token_ids", "taking")

    def begin(self, requests: int) -> None:
        """Start a batch of `requests` in place of the one before, and warm it up."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        if self._names:
            self._core.abort_request(self._names)
            for _ in range(3):
                self._core.step()
        draw = random.Random(requests)
        vocab_size = self._core.model_config.get_vocab_size()
        sampling = SamplingParams(
            temperature=1.0, max_tokens=self._longest, ignore_eos=True, detokenize=False, seed=None
        )
        self._batches += 1
        self._names = []
        for i in range(requests):
            prompt = [draw.randrange(1, vocab_size) for _ in range(64)]
            name = f"{self._batches}-{i}"
            name = self._core.add_request(name, TokensPrompt(prompt_token_ids=prompt), sampling) or name
            self._names.append(name)
        for _ in range(WARM_STEPS):
            self._core.step()

    def steps(self, count: int) -> dict[str, float]:
        """Make `count` steps; return their CPU and wall seconds, and the CPU seconds in them of redraft's proposer and
        of asking for the drafts."""
        self._spent = dict.fromkeys(self._spent, 0.0)
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(count):
            self._core.step()
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, **self._spent}

    def _time(self, owner: Any, name: str, what: str) -> None:
        """Add the CPU time of an object's method to `what`."""
        method: Callable[..., Any] = getattr(owner, name)
        self._spent[what] = 0.0

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self._spent[what] += time.thread_time() - started

        setattr(owner, name, timed)


def main() -> None:
    """Serve the parent process."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints to stdout
    engine = Engine(json.loads(sys.stdin.readline()))
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "requests" in order:
            engine.begin(order["requests"])
            print("{}", file=out, flush=True)
        elif "steps" in order:
            print(json.dumps(engine.steps(order["steps"])), file=out, flush=True)
        else:
            return


if __name__ == "__main__":
    main()
