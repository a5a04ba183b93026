"""A stand-in for vLLM's model runner: the batch and request book-keeping that a proposer sees, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from redraft.recipe.vllm import start_up
from redraft.recipe.vllm.proposer import RedraftProposer


class HandRunner:
    """Moves rows, appends tokens and forgets requests the way vLLM 0.32's `GPUModelRunner` does."""

    def __init__(self, proposer: RedraftProposer, rows: int = 8, max_model_len: int = 256) -> None:
        self.proposer = proposer
        self.requests: dict[str, Any] = {}
        self.batch = SimpleNamespace(
            req_ids=[],
            num_prompt_tokens=np.zeros(rows, np.int32),
            num_tokens_no_spec=np.zeros(rows, np.int32),
            token_ids_cpu=np.zeros((rows, max_model_len), np.int32),
        )

    def add(
        self, request_id: str, prompt: list[int], *, max_tokens: int | None = 100, end: int | None = None
    ) -> None:
        """Start a request; `end` is the end token."""
        parameters = SimpleNamespace(max_tokens=max_tokens, eos_token_id=end, stop_token_ids=[])
        self.requests[request_id] = SimpleNamespace(
            prompt_token_ids=prompt, output_token_ids=[], sampling_params=parameters
        )
        self.resume(request_id)

    def resume(self, request_id: str) -> None:
        """Give a request a row (again)."""
        state, row = self.requests[request_id], len(self.batch.req_ids)
        text = state.prompt_token_ids + state.output_token_ids
        self.batch.req_ids.append(request_id)
        self.batch.num_prompt_tokens[row] = len(state.prompt_token_ids)
        self.batch.num_tokens_no_spec[row] = len(text)
        self.batch.token_ids_cpu[row, : len(text)] = text

    def preempt(self, request_id: str) -> None:
        """Take a request's row away; the last row moves into the hole."""
        row, last = self.batch.req_ids.index(request_id), len(self.batch.req_ids) - 1
        for array in (self.batch.num_prompt_tokens, self.batch.num_tokens_no_spec, self.batch.token_ids_cpu):
            array[row] = array[last]
        self.batch.req_ids[row] = self.batch.req_ids[last]
        del self.batch.req_ids[last]

    def finish(self, request_id: str) -> None:
        """Forget a request that finished or was aborted."""
        if request_id in self.batch.req_ids:
            self.preempt(request_id)
        del self.requests[request_id]

    def step(
        self, propose: bool = True, horizon: int | None = None, **sampled: list[int]
    ) -> dict[str, list[int]]:
        """Book what each request sampled (nothing: it is in prefill), and return the drafts by request."""
        rows = [sampled.get(request_id, []) for request_id in self.batch.req_ids]
        for row, token_ids in enumerate(rows):
            begin = int(self.batch.num_tokens_no_spec[row])
            self.batch.token_ids_cpu[row, begin : begin + len(token_ids)] = token_ids
            self.batch.num_tokens_no_spec[row] += len(token_ids)
            self.requests[self.batch.req_ids[row]].output_token_ids.extend(token_ids)
        if not propose:
            return {}
        output = SimpleNamespace(num_spec_tokens_to_schedule=horizon, finished_req_ids=set())
        self.proposer.before_propose(self.batch, self.requests, output)
        drafts = self.proposer.propose(rows, self.batch.num_tokens_no_spec, self.batch.token_ids_cpu)
        assert len(drafts) == len(rows)
        return dict(zip(self.batch.req_ids, drafts, strict=True))


@pytest.fixture
def make_proposer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RedraftProposer]]:
    """Return a function that constructs a proposer without vLLM; keyword arguments are options."""
    monkeypatch.setattr(start_up, "prepare_vllm", lambda: None)
    made = []

    def make(
        *, drafts: int = 4, vocab_size: int = 1000, rank: int = 0, ranks: int = 1, **options: Any
    ) -> Any:
        config = SimpleNamespace(
            additional_config={"redraft": {"strict": True, "min_survival": 0.0, **options}},
            speculative_config=SimpleNamespace(num_speculative_tokens=drafts),
            model_config=SimpleNamespace(get_vocab_size=lambda: vocab_size, max_model_len=256),
            parallel_config=SimpleNamespace(
                rank=rank, tensor_parallel_size=ranks, world_size=ranks, distributed_executor_backend="mp"
            ),
        )
        made.append(RedraftProposer(config))
        return made[-1]

    yield make
    for proposer in made:
        proposer.close()


@pytest.fixture
def make_runner(make_proposer: Callable[..., RedraftProposer]) -> Callable[..., HandRunner]:
    """Return a function that makes a `HandRunner`; keyword arguments as for `make_proposer`."""
    return lambda **options: HandRunner(make_proposer(**options))
