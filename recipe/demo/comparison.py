"""Drafting against plain decoding: the same weights and prompts on two engines, turn by turn.

For the weights of an epoch the draft server holds what it held when that epoch began: the responses of all
earlier epochs. The two engines take turns, so that whatever else the machine does hits both alike, and the
figures are medians.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
    group = [p for p in prompts[: settings.comparison_prompts] for _ in range(settings.responses_per_prompt)]
    single = prompts[: settings.single_prompts]
    singles = epochs_to_time(settings.epochs, settings.single_epochs)
    published = -1
    pairs = []
    with _engines(settings, model, out, address, group, environment) as engines:
        publisher = Publisher([address], run=RUN)
        try:
            for epoch in range(settings.epochs):
                publisher.publish([r for r in history if published < r.epoch < epoch])
                publisher.flush(60)
                published = epoch - 1
                for engine in engines:
                    engine.load(weights(settings, out, model, epoch))
                pair = Pair(epoch, len(group), settings.temperature)
                report(f"epoch {epoch}: {pair.concurrency} requests at once")
                _measure(settings, engines, group, pair, settings.comparison_rounds)
                pairs.append(pair)
                if epoch in singles:
                    report(f"epoch {epoch}: one request at a time")
                    pair = Pair(epoch, 1, settings.temperature)
                    _measure(settings, engines, single, pair, settings.comparison_rounds)
                    pairs.append(pair)
            if settings.hard_temperature is not None:
                report(f"temperature {settings.hard_temperature}, the hard case")
                pair = Pair(settings.epochs - 1, len(group), settings.hard_temperature)
                _measure(settings, engines, group, pair, 1)
                pairs.append(pair)
        finally:
            publisher.close()
    return pairs


@contextlib.contextmanager
def _engines(
    settings: Settings,
    model: Path,
    out: Path,
    address: str,
    prompts: Sequence[Sequence[int]],
    environment: dict[str, str],
) -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """Start the engine with drafting and the plain one, warm both up, end both."""
    common = {
        "model": str(model),
        "max_model_len": settings.max_model_len,
        "max_num_seqs": max(
            settings.concurrency, settings.comparison_prompts * settings.responses_per_prompt
        ),
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
            engine.generate(prompts, temperature=1.0, max_tokens=16, concurrency=len(prompts))
        yield drafting, plain
    finally:
        drafting.close()
        plain.close()


def _measure(
    settings: Settings,
    engines: tuple[EngineProcess, EngineProcess],
    prompts: Sequence[Sequence[int]],
    pair: Pair,
    rounds: int,
) -> None:
    for turn in range(rounds):
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
