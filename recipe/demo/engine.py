"""A vLLM engine in a process of its own, driven by JSON lines: the measuring device of the comparison.

vLLM keeps one engine a process, and plain decoding has to be measured on an engine that never heard of drafting.
Run as `python -m redraft.recipe.demo.engine SETTINGS`; `EngineProcess` is the other end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from redraft.errors import FailedPrecondition
from redraft.recipe.demo.pair import Measurement

MODULE = "redraft.recipe.demo.engine"


@dataclass(frozen=True)
class EngineSettings:
    """What the engine is started with."""

    model: str
    """Folder of model and tokenizer."""
    max_model_len: int
    max_num_seqs: int
    kv_cache_gib: int = 1
    draft_tokens: int = 0
    """Most draft tokens for a request in one step; 0: plain vLLM, no speculation configured at all."""
    address: str = ""
    run: str = ""


class EngineProcess:
    """Starts the engine and waits for it; `close` ends it.

    Args:
        settings: the engine's.
        log: file that its output goes to.
        environment: environment of the process.
    """

    def __init__(self, settings: EngineSettings, log: Path, environment: dict[str, str]) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, json.dumps(asdict(settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                text=True,
                cwd=log.parent,  # not in a checkout that is not built, where `-m` would look first
            )

    @property
    def pid(self) -> int:
        """Its process; vLLM's own processes are that one's children."""
        return self._process.pid

    def ready(self) -> None:
        """Wait until the engine is up.

        Raises:
            FailedPrecondition: it ended instead; the message names its log.
        """
        self._receive()

    def load(self, folder: Path) -> None:
        """Put the weights of a Hugging Face folder in place of the present ones."""
        self._call(load=str(folder))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float,
        max_tokens: int,
        concurrency: int,
    ) -> Measurement:
        """Generate one response to each of `prompts`, token ids, at most `concurrency` at a time.

        Args:
            prompts: token ids; repeat a prompt to get a group.
            temperature: of sampling, >= 0.
            max_tokens: longest response.
            concurrency: requests in the engine at once; `len(prompts)` admits all, 1 goes one by one.
        """
        reply = self._call(
            prompts=[list(map(int, prompt)) for prompt in prompts],
            temperature=temperature,
            max_tokens=max_tokens,
            concurrency=concurrency,
        )
        return Measurement(**reply)

    def respond(
        self, prompts: Sequence[Sequence[int]], *, temperature: float, max_tokens: int
    ) -> tuple[Measurement, list[list[int]]]:
        """Generate as `generate` does, all at once, and return the responses' token ids too."""
        reply = self._call(
            prompts=[list(map(int, prompt)) for prompt in prompts],
            temperature=temperature,
            max_tokens=max_tokens,
            concurrency=len(prompts),
            responses=True,
        )
        responses: list[list[int]] = reply.pop("responses")
        return Measurement(**reply), responses

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _call(self, **message: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _ended(self) -> FailedPrecondition:
        return FailedPrecondition(f"engine: it ended with status {self._process.wait()}; see {self._log}")


def _serve(settings: EngineSettings, requests: IO[str], replies: IO[str]) -> None:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    options: dict[str, Any] = {}
    if settings.draft_tokens:
        options["speculative_config"] = {
            "method": "custom_class",
            "model": "redraft.recipe.vllm.proposer.RedraftProposer",
            "num_speculative_tokens": settings.draft_tokens,
        }
        # history_tokens=0: drafts come from the server and the live group, as in training, and not from what this
        # engine generated for the same prompt a minute ago in another repetition.
        options["additional_config"] = {
            "redraft": {"addresses": settings.address, "run": settings.run, "history_tokens": 0}
        }
    llm = LLM(
        settings.model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=max(2048, settings.max_model_len),
        disable_log_stats=False,
        **options,
    )

    def counters() -> dict[str, int]:
        wanted = {
            "vllm:spec_decode_num_draft_tokens": "drafted",
            "vllm:spec_decode_num_accepted_tokens": "accepted",
            "vllm:spec_decode_num_drafts": "steps",
        }
        found = dict.fromkeys(wanted.values(), 0)
        for metric in llm.get_metrics():
            if metric.name in wanted:
                found[wanted[metric.name]] += int(metric.value)
        return found

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    reply({})
    for line in requests:
        message = json.loads(line)
        if "load" in message:
            llm.collective_rpc("reload_weights", kwargs={"weights_path": message["load"]})
            llm.reset_prefix_cache()
            reply({})
            continue
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in message["prompts"]]
        sampling = SamplingParams(temperature=message["temperature"], max_tokens=message["max_tokens"])
        # vLLM tells its runner that a request has ended with the next step only. One step of something else, and
        # no group of the last measurement is alive any more to draft from.
        llm.generate(TokensPrompt(prompt_token_ids=[1]), SamplingParams(max_tokens=2), use_tqdm=False)
        llm.reset_prefix_cache()
        responses: list[Any] = []
        before, tokens, started = counters(), 0, time.perf_counter()
        for first in range(0, len(prompts), message["concurrency"]):
            outputs = llm.generate(prompts[first : first + message["concurrency"]], sampling, use_tqdm=False)
            tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
            responses += outputs
        seconds = time.perf_counter() - started
        after = counters()
        measured: dict[str, Any] = {
            "seconds": seconds,
            "tokens": tokens,
            **{name: after[name] - before[name] for name in after},
        }
        if message.get("responses"):
            measured["responses"] = [list(output.outputs[0].token_ids) for output in responses]
        reply(measured)


def _main() -> None:
    # vLLM and its children print to standard output: keep the real one for replies and give them the log.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _serve(EngineSettings(**json.loads(sys.argv[1])), sys.stdin, replies)


if __name__ == "__main__":
    _main()
