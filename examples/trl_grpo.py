"""GRPO with TRL's own trainer, drafting with redraft: vLLM in the trainer's process, on GPUs or on a CPU.

    redraft serve &
    python examples/trl_grpo.py --epochs 4                     # a tiny random model, made on the spot
    python examples/trl_grpo.py --model Qwen/Qwen3-0.6B --epochs 4

The lines that bring redraft in are marked with (1) and (2); everything else is an ordinary run of TRL. What they print
at the end of each epoch, and write to --metrics: tokens per engine step of a request, 1.0 being plain decoding.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DRAFT_TOKENS = 8
"""Most draft tokens for a request in one engine step."""


def draft_with(address: str, run: str, **more: Any) -> None:
    """(1) Have the vLLM that TRL starts draft with redraft.

    TRL 1.16 builds `LLM(...)` itself and passes no further arguments on, so they are added where it looks `LLM` up.

    Args:
        address: the draft server.
        run: name of the run, the one that is published under.
        more: further arguments of `vllm.LLM`.
    """
    from trl.generation import vllm_generation

    vllm_generation.LLM = functools.partial(
        vllm_generation.LLM,
        speculative_config={
            "method": "custom_class",
            "model": "redraft.recipe.vllm.proposer.RedraftProposer",
            "num_speculative_tokens": DRAFT_TOKENS,
        },
        additional_config={"redraft": {"addresses": [address], "run": run}},
        **more,
    )


def published(
    reward: Callable[..., list[float]], publisher: Any, tokenizer: Any
) -> Callable[..., list[float]]:
    """(2) Return `reward`, which from then on publishes every response that it scores.

    TRL calls a reward function with all finished responses of a step, their token ids included.

    Args:
        reward: a reward function of TRL.
        publisher: `redraft.client.Publisher`.
        tokenizer: the one that TRL turns prompts into tokens with.
    """
    from redraft import Rollout

    @functools.wraps(reward)
    def score(
        prompts: list[str], completion_ids: list[list[int]], trainer_state: Any, **columns: Any
    ) -> list[float]:
        rewards = reward(prompts=prompts, completion_ids=completion_ids, **columns)
        asked = tokenizer(text=prompts)["input_ids"]
        # With several trainer processes number the samples apart, for example from RANK * 10_000.
        publisher.publish(
            [
                Rollout(
                    p, ids, epoch=int(trainer_state.epoch), step=trainer_state.global_step, sample=i, reward=r
                )
                for i, (p, ids, r) in enumerate(zip(asked, completion_ids, rewards, strict=True))
            ]
        )
        return rewards

    return score


def variety(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Return the share of distinct tokens: a reward that any model can be trained for."""
    return [len(set(ids)) / len(ids) for ids in completion_ids]


def report_epochs(path: Path | None) -> Any:
    """Return a callback of TRL that tells at the end of each epoch how drafts fared.

    It asks the proposer, which lives in this process (`vllm_mode="colocate"`). With TRL's server mode ask the draft
    server: `redraft stats`.
    """
    from transformers import TrainerCallback

    from redraft.recipe.vllm.proposer import proposers

    class Report(TrainerCallback):
        """Prints, and appends to `path`, one line an epoch."""

        before = (0, 0, 0, 0)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Tell what was drafted since the last call."""
            told = [proposer.stats() for proposer in proposers()]
            now = (
                sum(each.steps for each in told),
                sum(each.emitted for each in told),
                sum(sum(map(sum, each.drafted.values())) for each in told),
                sum(sum(map(sum, each.accepted.values())) for each in told),
            )
            steps, emitted, drafted, accepted = (new - old for new, old in zip(now, self.before, strict=True))
            self.before = now
            line = {
                "epoch": round(state.epoch) - 1,
                "tokens_per_step": emitted / max(steps, 1),
                "drafted": drafted,
                "accepted": accepted,
            }
            print("redraft:", json.dumps(line), flush=True)
            if path is not None:
                with path.open("a") as file:
                    file.write(json.dumps(line) + "\n")

    return Report()


def make_tiny_model(folder: Path) -> None:
    """Write a random Llama with a vocabulary of 512 words into `folder`; its text is moderately certain."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(512)}, unk_token="t1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="t0", pad_token="t0", unk_token="t1"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(6.0)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.01)
    model.save_pretrained(folder)


def prepare_cpu() -> dict[str, Any]:
    """Set what vLLM needs on a machine without a GPU; return the arguments of `vllm.LLM` that go with it."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from redraft.recipe.cpu import plain_linear

    plain_linear.register()  # TRL loads new weights at every step, which vLLM's CPU layers do not allow otherwise
    return {"enforce_eager": True, "dtype": "float32"}


def train(arguments: argparse.Namespace, folder: Path) -> None:
    """Run GRPO."""
    import torch

    on_cpu = not torch.cuda.is_available()
    draft_with(arguments.address, arguments.run, **(prepare_cpu() if on_cpu else {}))

    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from redraft.client import Publisher

    model = arguments.model
    if model is None:
        make_tiny_model(folder / "model")
        model = str(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = [" ".join(f"t{2 + (7 * i + 13 * j) % 500}" for j in range(8)) for i in range(arguments.prompts)]
    publisher = Publisher([arguments.address], run=arguments.run)
    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.prompts * arguments.samples // 2,
        steps_per_generation=1,
        num_generations=arguments.samples,
        max_completion_length=arguments.tokens,
        learning_rate=1e-5,
        temperature=arguments.temperature,
        use_vllm=True,
        vllm_mode="colocate",
        # Near the end vLLM stops drafting for the whole batch: leave room for a full draft.
        vllm_max_model_length=8 + arguments.tokens + DRAFT_TOKENS,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=published(variety, publisher, tokenizer),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        callbacks=[report_epochs(arguments.metrics)],
    )
    trainer.train()
    publisher.close()
    print("redraft:", publisher.stats(), flush=True)


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or name of a model; without it a tiny one is made")
    parser.add_argument("--address", default="127.0.0.1:50061", help="the draft server, as host:port")
    parser.add_argument("--run", default="trl", help="the run's name in the server's history")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=4, help="responses to a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="longest response")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--metrics", type=Path, help="file that gets one JSON object an epoch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train(arguments, Path(folder))


if __name__ == "__main__":
    main()
