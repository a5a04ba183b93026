"""One engine, with drafting or without, that the exactness tests compare.

Settings: `model`; `prompts`; `drafted`; `texts`: (prompt, response) pairs whose log-probabilities are wanted.
Result: `greedy`: rounds of responses; `sampled`: (prompt, response, log-probabilities) at temperature 1;
`log_probabilities`: of `texts`; `seeded`: under position-keyed sampling, rounds of responses to the first prompts
under each of `SEEDED`; with drafting `stats`, at the end of the greedy rounds and of all, `draft_lengths`, and
`accepted_while_seeded`.
"""

import json
import os
import sys
from dataclasses import asdict

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the proposer is read in this very process

SEEDED = [
    {"seed": 41, "max_tokens": 48, "ignore_eos": True, "detokenize": False},
    {"seed": 42, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1, "max_tokens": 48},
    {"seed": 43, "min_tokens": 12, "stop_token_ids": list(range(2, 200)), "max_tokens": 48, "logprobs": 1},
]
"""Parameters of sampled responses; requests of the same parameters share the seed, so siblings are the same."""


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    from vllm import LLM, SamplingParams

    drafting = {}
    if settings["drafted"]:
        drafting["speculative_config"] = {
            "method": "custom_class",
            "model": "redraft.recipe.vllm.proposer.RedraftProposer",
            "num_speculative_tokens": 6,
        }
        drafting["additional_config"] = {"redraft": settings["options"]}
    engine = LLM(
        settings["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=64,
        seed=7,
        **drafting,
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in settings["prompts"]]
    result = {"greedy": [], "sampled": [], "log_probabilities": [], "seeded": []}
    lengths = watch_draft_lengths() if settings["drafted"] else set()

    greedy = SamplingParams(temperature=0, max_tokens=128, ignore_eos=True, detokenize=False)
    for _ in range(settings["rounds"]):
        result["greedy"].append(generate_one_after_another(engine.llm_engine, settings["prompts"], greedy))

    if settings["drafted"]:
        from redraft.recipe.vllm.proposer import proposers

        result["stats"] = [asdict(proposers()[0].stats())]
        sampling = SamplingParams(
            temperature=1, n=4, max_tokens=64, logprobs=0, ignore_eos=True, detokenize=False
        )
        for _ in range(2):
            for output in engine.generate(prompts[:16], sampling, use_tqdm=False):
                for completion in output.outputs:
                    ids = list(completion.token_ids)
                    values = [step[i].logprob for i, step in zip(ids, completion.logprobs, strict=True)]
                    result["sampled"].append([output.prompt_token_ids, ids, values])
        result["stats"].append(asdict(proposers()[0].stats()))
        result["draft_lengths"] = sorted(lengths)

    for _ in range(settings["rounds"] if os.environ.get("REDRAFT_KEYED_SAMPLING") else 0):
        result["seeded"].append(
            [
                generate_one_after_another(
                    engine.llm_engine, settings["prompts"][:16], SamplingParams(**parameters)
                )
                for parameters in SEEDED
            ]
        )
    if settings["drafted"]:
        accepted = sum(map(sum, asdict(proposers()[0].stats())["accepted"].values()))
        result["accepted_while_seeded"] = accepted - sum(map(sum, result["stats"][-1]["accepted"].values()))
    forced = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    texts = [{"prompt_token_ids": prompt + response} for prompt, response in settings["texts"]]
    for output, (prompt, response) in zip(
        engine.generate(texts, forced, use_tqdm=False), settings["texts"], strict=True
    ):
        steps = output.prompt_logprobs[len(prompt) :]
        result["log_probabilities"].append([step[i].logprob for i, step in zip(response, steps, strict=True)])
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)


def generate_one_after_another(engine, prompts: list[list[int]], parameters) -> list[list[int]]:
    """Return a response to each prompt; a request starts at every step, so siblings are never in step."""
    responses, waiting = {}, list(enumerate(prompts))
    while len(responses) < len(prompts):
        if waiting:
            number, prompt = waiting.pop(0)
            engine.add_request(str(number), {"prompt_token_ids": prompt}, parameters)
        for output in engine.step():
            if output.finished:
                responses[int(output.request_id)] = list(output.outputs[0].token_ids)
    return [responses[number] for number in range(len(prompts))]


def watch_draft_lengths() -> set[int]:
    """Return a set that fills with the lengths of the drafts that vLLM gets."""
    from redraft.recipe.vllm.proposer import RedraftProposer

    lengths, propose = set(), RedraftProposer.propose

    def watched(self, *args, **kwargs):
        drafts = propose(self, *args, **kwargs)
        lengths.update(map(len, drafts))
        return drafts

    RedraftProposer.propose = watched
    return lengths


if __name__ == "__main__":
    main()
