"""Drafting against plain decoding: the same weights and prompts on two engines, turn by turn.

For the weights of an epoch the draft server holds what it held when that epoch began: the responses of all
earlier epochs. The two engines take turns, so that whatever else the machine does hits both alike, and the
figures are medians.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from redraft.client import Publisher
from redraft.recipe.demo.engine import EngineProcess, EngineSettings
from redraft.recipe.demo.pair import Pair
from redraft.recipe.demo.settings import Settings
from redraft.recipe.demo.training import weights
from redraft.rollout import Rollout

RUN = "demo-comparison"
"""The run under which the history is published again, epoch by epoch."""


def epochs_to_time(epochs: int, count: int) -> list[int]:
    """Return `count` of the epochs 0 to `epochs` - 1: the first, the last and evenly between."""
    if count >= epochs or epochs == 1:
        return list(range(epochs))
    if count == 1:
        return [epochs - 1]
    return sorted({round(i * (epochs - 1) / (count - 1)) for i in range(count)})


def compare(
    settings: Settings,
    model: Path,
    out: Path,
    address: str,
    prompts: Sequence[Sequence[int]],
    history: Sequence[Rollout],
    environment: dict[str, str],
    report: Callable[[str], None],
) -> list[Pair]:
    """Measure every epoch at the demo's concurrency and some of them one request at a time.

    Args:
        settings: the demo's.
        model: what training began with.
        out: folder with the weights of every epoch; the engines' logs go there.
        address: a draft server.
        prompts: token ids of the training prompts, chat template included.
        history: the training run's responses.
        environment: of the engines.
        report: called before every measurement with what is being done.
    """
    size, rounds, group = settings.prompts_per_step, settings.comparison_rounds, settings.responses_per_prompt
    batches = [[p for p in prompts[i * size : (i + 1) * size] for _ in range(group)] for i in range(rounds)]
    rest, size = prompts[rounds * size :], settings.single_prompts
    alone = [rest[i * size : (i + 1) * size] for i in range(settings.single_rounds)]
    singles = epochs_to_time(settings.epochs, settings.single_epochs)
    published = -1
    pairs = []
    with _engines(settings, model, out, address, environment) as engines:
        publisher = Publisher([address], run=RUN)
        try:
            for epoch in range(settings.epochs):
                publisher.publish([r for r in history if published < r.epoch < epoch])
                publisher.flush(60)
                published = epoch - 1
                for engine in engines:
                    engine.load(weights(settings, out, model, epoch))
                report(f"epoch {epoch}: {settings.concurrency} requests at once")
                pairs.append(Pair(epoch, settings.concurrency, settings.temperature))
                _measure(settings, engines, batches, pairs[-1])
                if epoch in singles:
                    report(f"epoch {epoch}: one request at a time")
                    pairs.append(Pair(epoch, 1, settings.temperature))
                    _measure(settings, engines, alone, pairs[-1])
            if settings.hard_temperature is not None:
                report(f"temperature {settings.hard_temperature}, the hard case")
                pairs.append(Pair(settings.epochs - 1, settings.concurrency, settings.hard_temperature))
                _measure(settings, engines, batches[:1], pairs[-1])
        finally:
            publisher.close()
    return pairs


@contextlib.contextmanager
def _engines(
    settings: Settings,
    model: Path,
    out: Path,
    address: str,
    environment: dict[str, str],
) -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """Start the engine with drafting and the plain one, warm both up, end both."""
    common: dict[str, Any] = {
        "model": str(model),
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.concurrency,
    }
    plain = EngineProcess(EngineSettings(**common), out / "engine-plain.log", environment)
    drafting = EngineProcess(
        EngineSettings(**common, draft_tokens=settings.draft_tokens, address=address, run=RUN),
        out / "engine-drafting.log",
        environment,
    )
    try:
        for engine in (drafting, plain):
            engine.ready()
            # The first steps of an engine pay for what it prepares lazily.
            nonsense = [[i % 50 + 3] * 16 for i in range(settings.concurrency)]
            engine.generate(nonsense, temperature=1.0, max_tokens=16, concurrency=len(nonsense))
        yield drafting, plain
    finally:
        drafting.close()
        plain.close()


def _measure(
    settings: Settings,
    engines: tuple[EngineProcess, EngineProcess],
    rounds: Sequence[Sequence[Sequence[int]]],
    pair: Pair,
) -> None:
    """Fill `pair`, a round for each set of prompts.

    Every round has prompts of its own: the engine's drafter learns from all that it sees, and a prompt that comes
    again with the same weights would flatter it.
    """
    for turn, prompts in enumerate(rounds):
        sides = [(engines[0], pair.drafting), (engines[1], pair.plain)]
        # Whoever goes second finds warmer caches: take turns at that too.
        for engine, measurements in sides if turn % 2 == 0 else sides[::-1]:
            measurements.append(
                engine.generate(
                    prompts,
                    temperature=pair.temperature,
                    max_tokens=settings.response_length,
                    concurrency=pair.concurrency,
                )
            )
