"""Real runs of verl's trainers that have none of ours, drafting put in place by hand as doc/trainers.md says."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soak_run import Server
from training_runs import Run, arguments, train, write_prompts

from redraft.client import DraftClient
from redraft.rollout import Rollout

RUN = "tests/training"
PLATFORM = "redraft.recipe.cpu.platform"
ENGINE = "actor_rollout_ref.rollout.engine_kwargs.vllm"
PROMPTS, BATCH, SAMPLES, EPOCHS = 4, 2, 4, 2


@dataclass
class ByHand(Run):
    """What such a run left behind."""

    accepted: Counter[str]
    """Accepted tokens by source, as the engine told the draft server."""


def train_by_hand(
    folder: Path,
    model: Path,
    stored: Callable[[Path, str], list[Rollout]],
    launch: Sequence[str],
    *further: str,
    modules: str = f"{PLATFORM},redraft.recipe.verl.register_server",
) -> ByHand:
    """Train and wait for the end.

    Args:
        folder: where everything goes.
        model: the policy to start from.
        stored: reads a server's data directory.
        launch: what Python is to run.
        further: arguments of this trainer.
        modules: what verl imports in each of its processes.
    """
    write_prompts(folder, PROMPTS, 0)
    server = Server(folder / "data")
    session = f"addresses: ['{server.address}'], run: {RUN}"
    given = arguments(folder, model, batch=BATCH, samples=SAMPLES)
    command = [
        *settings_of_the_cpu(),
        *(argument for argument in given if not argument.startswith("redraft.")),
        f"+{ENGINE}.speculative_config={{method: custom_class, num_speculative_tokens: 4, "
        "model: redraft.recipe.vllm.proposer.RedraftProposer}",
        f"+{ENGINE}.additional_config={{redraft: {{{session}}}}}",
        f"+redraft.session={{{session}, steps_per_epoch: {PROMPTS // BATCH}}}",
        "actor_rollout_ref.hybrid_engine=false",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=shared_memory",
        "rollout.nnodes=1",
        "rollout.n_gpus_per_node=1",
        "++ray_kwargs.ray_init.num_cpus=40",  # their actors ask for ten each
        "++ray_kwargs.ray_init.num_gpus=2",
        f"trainer.total_epochs={EPOCHS}",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
        *further,
    ]
    accepted: Counter[str] = Counter()
    try:
        run = train(folder, command, stored, launch=launch, VERL_USE_EXTERNAL_MODULES=modules)
        client = DraftClient(server.address)
        for worker in (worker for told in client.stats(RUN).runs for worker in told.workers):
            for source in worker.acceptance.sources:
                accepted[source.source] += sum(source.accepted)
        client.close()
    finally:
        server.end(signal.SIGTERM)
    return ByHand(**{**vars(run), "history": stored(folder / "data", RUN)}, accepted=accepted)


def settings_of_the_cpu() -> Iterator[str]:
    """Yield what redraft_cpu_trainer.yaml says of verl, as arguments."""
    import yaml

    import redraft.recipe.cpu

    file = Path(redraft.recipe.cpu.__file__).with_name("redraft_cpu_trainer.yaml")

    def flat(name: str, value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(f"{name}.{key}", inner)
        else:
            yield f"++{name}={str(value).lower() if isinstance(value, bool) else value}"

    for name, value in yaml.safe_load(file.read_text()).items():
        if name not in ("hydra", "defaults", "redraft"):
            yield from flat(name, value)


def published_once(run: Run) -> None:
    """Check that each response of verl's is stored once, as verl has it."""
    of_verl = Counter((tuple(row["prompt"]), tuple(row["response"])) for row in run.recorded)
    kept = Counter(
        (tuple(r.prompt_token_ids.tolist()), tuple(r.response_token_ids.tolist())) for r in run.history
    )
    assert kept == of_verl
    assert len({(r.key, r.epoch, r.step, r.sample, r.validation) for r in run.history}) == len(run.history)
