"""What a user sees who configures redraft wrongly. Result: the message of each refusal, by its kind."""

import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import drafting

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from redraft.recipe.compatibility.releases import READ, Release
    from redraft.recipe.vllm import versions
    from redraft.recipe.vllm.proposer import RedraftProposer

    messages = {}
    try:
        drafting.make(settings["model"], 3, redraft={"addresses": "nowhere"}, max_model_len=64)
    except Exception as error:
        messages["addresses"] = str(error)

    def construct(kind: str, tokens: int = 3, rule: str = "standard", **parallel) -> None:
        parallel = {
            "rank": 0,
            "tensor_parallel_size": 1,
            "world_size": 1,
            "distributed_executor_backend": "mp",
            **parallel,
        }
        try:
            RedraftProposer(
                SimpleNamespace(
                    additional_config={},
                    speculative_config=SimpleNamespace(
                        num_speculative_tokens=tokens, rejection_sample_method=rule
                    ),
                    model_config=SimpleNamespace(get_vocab_size=lambda: 100, max_model_len=64),
                    parallel_config=SimpleNamespace(**parallel),
                )
            )
        except Exception as error:
            messages[kind] = f"{type(error).__name__}: {error}"

    construct("good")
    construct("tokens", tokens=200)
    construct("block", rule="block")
    construct("rule", rule="synthetic")
    construct(
        "external", distributed_executor_backend="external_launcher", world_size=2, tensor_parallel_size=2
    )
    versions.VLLM = replace(versions.VLLM, releases=(Release("0.1.0", READ), Release("0.2.0", READ)))
    construct("version")
    os.environ[versions.OVERRIDE] = "1"
    construct("overridden")
    with open(sys.argv[2], "w") as file:
        json.dump(messages, file)


if __name__ == "__main__":
    main()
