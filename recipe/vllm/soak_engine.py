"""The load of the soak: an asynchronous vLLM engine in whose rollouts everything goes wrong that may go wrong.

Groups of siblings are rolled out epoch after epoch, and every finished response is published. All the while single
requests are cancelled at random (some are resumed with what they had, some given up), and now and then the engine is
paused as for a change of weights: running requests are aborted and resumed, or kept. Run as
`python -m redraft.recipe.vllm.soak_engine SETTINGS`, JSON; prints a JSON line every few seconds and a last one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import xxhash

from redraft.client import Publisher
from redraft.rollout import Rollout

RUN = "soak"
CANCELLED = 0.15
"""Share of the requests that are cancelled somewhere on their way."""
GIVEN_UP = 0.3
"""Share of these that are not resumed."""
SYNC_SECONDS = 15.0
"""Between two pauses."""
STUCK_SECONDS = 120.0
"""A request that brought no token for this long, while the engine was not paused, is stuck."""


@dataclass
class Load:
    """What the soak did so far."""

    settings: dict[str, Any]
    counts: Counter[str] = field(default_factory=Counter)
    last_token: dict[str, float] = field(default_factory=dict)
    """Running request -> when it brought its last token."""
    published: dict[str, str] = field(default_factory=dict)
    """Identity of each published response -> digest of its tokens."""
    running: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while the engine is paused."""
    draw: random.Random = field(default_factory=lambda: random.Random(1))
    ends: float = 0.0

    def tasks(self) -> AsyncIterator[tuple[int, int, int]]:
        """Yield (epoch, prompt, sample) until the time is over."""
        return self._tasks()

    async def _tasks(self) -> AsyncIterator[tuple[int, int, int]]:
        epoch = 0
        while True:
            order = list(range(self.settings["prompts"]))
            self.draw.shuffle(order)
            for prompt in order:
                for sample in range(self.settings["siblings"]):
                    if time.monotonic() > self.ends:
                        return
                    yield epoch, prompt, sample
            epoch += 1
            self.counts["epochs"] = epoch


def identity(rollout: Rollout) -> str:
    """Return what names a response in the history."""
    return f"{rollout.epoch} {rollout.step} {rollout.key.hex()} {rollout.sample}"


def digest(token_ids: Any) -> str:
    """Return a digest of a response's tokens."""
    return xxhash.xxh3_64_hexdigest(np.asarray(token_ids, "<i4").tobytes())


async def respond(engine: Any, load: Load, prompt: list[int], name: str, longest: int) -> list[int] | None:
    """Return one response, through whatever happens to its requests; None when it was given up."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    temperature = load.draw.choice([0.0, 0.0, 0.5, 1.0])
    response: list[int] = []
    attempt = 0
    while len(response) < longest:
        await load.running.wait()
        attempt += 1
        request_id = f"{name}-{attempt}"
        left = longest - len(response)
        cancel_at = load.draw.randrange(left) if load.draw.random() < CANCELLED else None
        sampling = SamplingParams(
            temperature=temperature, max_tokens=left, ignore_eos=True, detokenize=False, n=1
        )
        load.last_token[request_id] = time.monotonic()
        part: list[int] = []
        reason = None
        try:
            text = TokensPrompt(prompt_token_ids=prompt + response)
            async with aclosing(engine.generate(text, sampling, request_id)) as outputs:
                async for output in outputs:
                    part = list(output.outputs[0].token_ids)
                    reason = output.outputs[0].finish_reason
                    load.last_token[request_id] = time.monotonic()
                    if cancel_at is not None and len(part) > cancel_at and reason is None:
                        reason = "cancelled"
                        break
        finally:
            del load.last_token[request_id]
        response += part
        if reason == "cancelled":
            load.counts["cancelled"] += 1
            if load.draw.random() < GIVEN_UP:
                load.counts["given_up"] += 1
                return None
        elif reason == "abort":
            load.counts["aborted"] += 1
        elif reason != "length":
            load.counts[f"ended: {reason}"] += 1
    return response[:longest]


async def roll_out(engine: Any, load: Load, publisher: Publisher, tasks: AsyncIterator[Any]) -> None:
    """Take tasks until there are none left."""
    async for epoch, prompt, sample in tasks:
        draw = random.Random(prompt)
        prompt_ids = [draw.randrange(1, load.settings["vocab_size"]) for _ in range(draw.randrange(8, 40))]
        longest = load.draw.randrange(8, load.settings["longest"])
        response = await respond(engine, load, prompt_ids, f"{epoch}-{prompt}-{sample}", longest)
        if response is None:
            continue
        rollout = Rollout(
            np.asarray(prompt_ids, np.int32),
            np.asarray(response, np.int32),
            epoch=epoch,
            step=epoch,
            sample=sample,
        )
        load.published[identity(rollout)] = digest(response)
        load.counts["finished"] += 1
        load.counts["tokens"] += len(response)
        publisher.publish([rollout])


async def pause_now_and_then(engine: Any, load: Load) -> None:
    """Do what a trainer does around a change of weights, again and again."""
    while time.monotonic() < load.ends:
        await asyncio.sleep(SYNC_SECONDS * load.draw.uniform(0.5, 1.5))
        load.running.clear()
        await engine.pause_generation(mode=load.draw.choice(["abort", "keep"]))
        await asyncio.sleep(0.5)
        await engine.reset_prefix_cache()
        await engine.resume_generation()
        now = time.monotonic()
        load.last_token.update(dict.fromkeys(load.last_token, now))
        load.running.set()
        load.counts["pauses"] += 1


async def one_at_a_time(tasks: AsyncIterator[Any], lock: asyncio.Lock) -> AsyncIterator[Any]:
    """Yield from an iterator that several share."""
    while True:
        async with lock:
            try:
                task = await anext(tasks)
            except StopAsyncIteration:
                return
        yield task


async def tell(load: Load, publisher: Publisher, out: IO[str]) -> None:
    """Print how things are, and notice what is stuck."""
    while True:
        await asyncio.sleep(5)
        now = time.monotonic()
        if load.running.is_set():
            stuck = [name for name, at in load.last_token.items() if now - at > STUCK_SECONDS]
            load.counts["stuck"] = max(load.counts["stuck"], len(stuck))
        stats = publisher.stats()
        line = {
            **load.counts,
            "published": stats.published,
            "pending": stats.pending,
            "retries": stats.retries,
        }
        print(json.dumps(line), file=out, flush=True)


async def run(settings: dict[str, Any], out: IO[str]) -> None:
    """Run the load for `settings["seconds"]` and print a last line."""
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=settings["model"],
            skip_tokenizer_init=True,
            load_format="dummy",
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=settings["at_once"],
            disable_log_stats=True,
            speculative_config={
                "method": "custom_class",
                "model": "redraft.recipe.vllm.proposer.RedraftProposer",
                "num_speculative_tokens": 6,
            },
            additional_config={
                "redraft": {
                    "addresses": settings["addresses"],
                    "run": RUN,
                    "min_survival": 0.0,
                    "strict": True,
                }
            },
        )
    )
    publisher = Publisher(settings["addresses"], run=RUN)
    load = Load(settings, ends=time.monotonic() + settings["seconds"])
    load.running.set()
    print(json.dumps({"ready": True}), file=out, flush=True)
    told = asyncio.create_task(tell(load, publisher, out))
    pauses = asyncio.create_task(pause_now_and_then(engine, load))
    tasks, lock = load.tasks(), asyncio.Lock()
    workers = [
        asyncio.create_task(roll_out(engine, load, publisher, one_at_a_time(tasks, lock)))
        for _ in range(settings["at_once"] * 3 // 2)  # some wait for their turn
    ]
    done, late = await asyncio.wait(workers, timeout=settings["seconds"] + 2 * STUCK_SECONDS)
    load.counts["stuck"] = max(load.counts["stuck"], len(late))
    for task in [*late, pauses, told]:
        task.cancel()
    errors = [str(task.exception()) for task in done if task.exception() is not None]
    flushed = await asyncio.to_thread(publisher.flush, 120.0)
    stats = publisher.stats()
    last = {
        **load.counts,
        "published": stats.published,
        "refused": stats.refused,
        "dropped": stats.dropped,
        "flushed": flushed,
        "errors": errors,
    }
    publisher.close()
    engine.shutdown()
    with open(settings["identities"], "w", encoding="utf-8") as file:
        json.dump(load.published, file)
    print(json.dumps({"end": last}), file=out, flush=True)


def main() -> None:
    """Run with the settings of the command line."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints to stdout
    asyncio.run(run(json.loads(sys.argv[1]), out))


if __name__ == "__main__":
    main()
