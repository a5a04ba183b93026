"""The demo's default policy: a few million parameters, trained here on worked solutions, then kept on disk.

Reinforcement learning starts from a policy that already solves some of its tasks; a pretrained model of a
useful size would take longer to download than this one takes to train.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from redraft.recipe.demo import tasks, tokenizer

IGNORE = -100
"""The label of a position that gives no loss (torch's cross entropy)."""


@dataclass(frozen=True)
class PolicyConfig:
    """Size and training of the tiny policy; its hash names the folder that it is kept in."""

    vocabulary_size: int = 384
    hidden: int = 192
    intermediate: int = 512
    layers: int = 4
    heads: int = 6
    key_value_heads: int = 6
    positions: int = 512
    examples: int = 7_200
    batch: int = 8
    muon_lr: float = 2e-2
    adamw_lr: float = 3e-3
    warmup_steps: int = 40
    weight_decay: float = 0.1
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.examples // self.batch

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with these settings and with the code of tasks and tokenizer."""
        text = json.dumps(asdict(self), sort_keys=True) + "".join(
            inspect.getsource(module) for module in (tasks, tokenizer)
        )
        return hashlib.sha256((text + inspect.getsource(_train)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Progress:
    """Where training stands, for a progress bar."""

    step: int
    steps: int
    loss: float


def prepare(
    cache_dir: Path, config: PolicyConfig = PolicyConfig(), report: Callable[[Progress], None] | None = None
) -> Path:
    """Return the folder of the trained policy in Hugging Face's layout, float32; train it if it is not there.

    Args:
        cache_dir: where policies are kept; created when missing.
        config: size and training.
        report: called after every optimizer step.
    """
    folder = cache_dir / f"tiny-{config.fingerprint}"
    if (folder / "config.json").exists():
        return folder
    started = time.time()
    tokens = build_tokenizer(config)
    model = _train(config, tokens, report or (lambda _: None))
    # Complete or absent: a half-written folder must not be taken for a policy.
    partial = cache_dir / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save_pretrained(partial)
    tokens.save_pretrained(partial)
    facts = {
        "config": asdict(config),
        "seconds": round(time.time() - started, 1),
        "parameters": model.num_parameters(),
    }
    (partial / "training.json").write_text(json.dumps(facts, indent=1))
    partial.rename(folder)
    return folder


def build_tokenizer(config: PolicyConfig) -> PreTrainedTokenizerFast:
    """Return the tokenizer, learned from the first worked solutions."""
    sample = islice(tasks.supervised_examples(config.seed), 2000)
    return tokenizer.train_tokenizer((text for pair in sample for text in pair), config.vocabulary_size)


def build_model(config: PolicyConfig, tokens: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model, float32."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary_size,
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            max_position_embeddings=config.positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
            rope_theta=10_000.0,
            dtype="float32",
        )
    )


def encode(tokens: PreTrainedTokenizerFast, question: str, solution: str) -> tuple[list[int], int]:
    """Return the token ids of prompt and response, end token included, and the length of the prompt."""
    prompt = tokens.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    prompt_ids = tokens(prompt, add_special_tokens=False).input_ids
    response_ids = tokens(solution, add_special_tokens=False).input_ids
    return [*prompt_ids, *response_ids, int(tokens.eos_token_id)], len(prompt_ids)


def _batches(
    config: PolicyConfig, tokens: PreTrainedTokenizerFast
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield (ids, labels), each int64 of shape (batch, longest); batches hold examples of similar length."""
    rng = np.random.default_rng(config.seed)
    examples = tasks.supervised_examples(config.seed + 1)
    pool_size = config.batch * 20
    for _ in range(math.ceil(config.steps / 20)):
        pool = sorted(
            (encode(tokens, *pair) for pair in islice(examples, pool_size)), key=lambda pair: len(pair[0])
        )
        groups = [pool[i : i + config.batch] for i in range(0, pool_size, config.batch)]
        for index in rng.permutation(len(groups)):
            group = groups[index]
            width = len(group[-1][0])
            ids = np.full((len(group), width), tokens.pad_token_id, dtype=np.int64)
            labels = np.full((len(group), width), IGNORE, dtype=np.int64)
            for row, (example, prompt) in enumerate(group):
                ids[row, : len(example)] = example
                labels[row, prompt : len(example)] = example[prompt:]
            yield ids, labels


def _train(
    config: PolicyConfig, tokens: PreTrainedTokenizerFast, report: Callable[[Progress], None]
) -> LlamaForCausalLM:
    model = build_model(config, tokens)
    model.train()
    # Muon needs about half the steps of AdamW here; it is made for the matrices between embedding and head.
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]

    def schedule(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))

    schedulers = [torch.optim.lr_scheduler.LambdaLR(o, schedule) for o in optimizers]
    for step, (ids, labels) in enumerate(islice(_batches(config, tokens), config.steps), start=1):
        # Right padding and causal attention: no real token sees a pad, so no mask is needed.
        hidden = model.model(input_ids=torch.from_numpy(ids), use_cache=False).last_hidden_state
        targets = torch.from_numpy(labels)[:, 1:]
        answered = targets != IGNORE
        logits = model.lm_head(hidden[:, :-1][answered])
        loss = nn.functional.cross_entropy(logits, targets[answered])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedulers):
            part.step()
        model.zero_grad(set_to_none=True)
        report(Progress(step, config.steps, loss.item()))
    return model.eval()
