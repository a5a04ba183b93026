"""A tiny model made on the fly, and engines in processes of their own, for the tests of the recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ENGINE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "REDRAFT_STRICT": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "INFO",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment of a vLLM process in tests: no network, one thread, and an error while drafting is an error."""


@pytest.fixture(scope="session")
def engine_environment() -> dict[str, str]:
    """The environment for a process that runs vLLM."""
    return {**os.environ, **ENGINE_ENVIRONMENT}


@pytest.fixture(scope="session")
def make_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a random Llama in float32 and returns its folder.

    Its tokenizer knows words: token id i is "t{i}", and t0 is the end token. Keyword arguments: `vocab_size`,
    `layers`, `hidden` (a multiple of 32), `sharpness` (factor on the output layer: at 1 the next token is
    nearly uniform, at 100 nearly certain), `memory` (factor on attention's output: at 0 the next token depends
    on the last one only; small values make texts that part meet again, as real ones do), `seed`, `experts` (a
    Mixtral of so many, two of them for each token).
    """
    made: dict[tuple[Any, ...], Path] = {}

    def make(
        *,
        vocab_size: int = 1024,
        layers: int = 2,
        hidden: int = 64,
        sharpness: float = 8.0,
        memory: float = 0.01,
        seed: int = 0,
        experts: int = 0,
    ) -> Path:
        key = (vocab_size, layers, hidden, sharpness, memory, seed, experts)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("tiny_model")
            # In a process of its own: torch and transformers stay out of pytest's.
            _run(_MAKE_TINY_MODEL, [str(made[key]), *map(str, key)], dict(os.environ), 300)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_model(make_tiny_model: Callable[..., Path]) -> Path:
    """Folder of the default tiny model: 1024 tokens, two layers, a moderately certain next token."""
    return make_tiny_model()


@pytest.fixture(scope="session")
def run_engine(
    engine_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Return `run(script, settings, environment={}, timeout=300)`: one engine in a process of its own.

    The script gets two paths: JSON with `settings`, and where to write its result as JSON, which is returned.
    """

    def run(
        script: Path,
        settings: dict[str, Any],
        environment: dict[str, str] | None = None,
        timeout: float = 300,
    ) -> Any:
        folder = tmp_path_factory.mktemp(script.stem)
        (folder / "settings.json").write_text(json.dumps(settings))
        arguments = [str(folder / "settings.json"), str(folder / "result.json")]
        _run(script, arguments, {**engine_environment, **(environment or {})}, timeout)
        return json.loads((folder / "result.json").read_text())

    return run


def _run(script: Path | str, arguments: list[str], environment: dict[str, str], timeout: float) -> None:
    command = [sys.executable, *(["-c", script] if isinstance(script, str) else [str(script)]), *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        output = (done.stdout + done.stderr)[-6000:]
        raise AssertionError(f"{' '.join(command)[:200]} ended with {done.returncode}:\n{output}")


_MAKE_TINY_MODEL = """
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
import transformers
from transformers import PreTrainedTokenizerFast

path, (vocab_size, layers, hidden, sharpness, memory, seed, experts) = sys.argv[1], map(float, sys.argv[2:])
vocab_size, layers, hidden, seed, experts = map(int, (vocab_size, layers, hidden, seed, experts))
words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab_size)}, unk_token="t1"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t0", pad_token="t0", unk_token="t1")
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
tokenizer.save_pretrained(path)
torch.manual_seed(seed)
kind = "Mixtral" if experts else "Llama"
model = getattr(transformers, f"{kind}ForCausalLM")(
    getattr(transformers, f"{kind}Config")(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,  # vLLM has no CPU attention for smaller heads
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype="float32",
        **({"num_local_experts": experts, "num_experts_per_tok": 2} if experts else {}),
    )
)
with torch.no_grad():
    model.lm_head.weight.mul_(sharpness)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(memory)
model.save_pretrained(path)
"""
