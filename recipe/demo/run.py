"""The demo from start to end: policy, draft server, training, comparison, report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from transformers import AutoTokenizer

from redraft.client import DraftClient
from redraft.errors import RedraftError
from redraft.recipe.cpu.environment import variables, write_metadata
from redraft.recipe.demo import data, policy, report, selection, smollm2, training
from redraft.recipe.demo.comparison import compare
from redraft.recipe.demo.pair import Pair
from redraft.recipe.demo.progress import Display
from redraft.recipe.demo.server import draft_server, responses
from redraft.recipe.demo.settings import Settings

_LEFTOVERS = ("data", "history", "weights", "engine", "hydra", "checkpoints")


def default_cache() -> Path:
    """Return where trained and converted models are kept: $XDG_CACHE_HOME/redraft, else ~/.cache/redraft."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redraft"


class Demo:
    """One run of the demo.

    Args:
        settings: what to run.
        out: folder of everything that it writes; what an earlier run left there is replaced.
        cache: folder of trained and converted models.
        command: what was typed, for the report.
        console: where progress goes.
    """

    def __init__(self, settings: Settings, out: Path, cache: Path, command: str, console: Console) -> None:
        self._settings = settings
        self._out = out.resolve()
        self._cache = cache.resolve()
        self._command = command
        self._console = console
        self._phases: dict[str, float] = {}
        self._notes: list[str] = []

    def run(self) -> report.Report:
        """Do it all and return the report, which also lies in the output folder.

        Raises:
            RedraftError: a part failed; the message names its log.
        """
        settings, out = self._settings, self._out
        out.mkdir(parents=True, exist_ok=True)
        for name in _LEFTOVERS:
            shutil.rmtree(out / name, ignore_errors=True)
        with Display(self._console, settings) as display:
            with self._phase("policy", display):
                model = self._prepare_policy(display)
                prompts = self._prepare_prompts(model, display)
            environment = self._environment()
            with draft_server(out / "history", out / "server.log", environment) as (address, pid):
                display.say(
                    f"draft server at {address}, process {pid} (kill it at any time: training goes on)"
                )
                with self._phase("training", display):
                    metrics = self._train(display, model, address, environment)
                display.note_epochs(metrics)
                self._check_server(address)
            with self._phase("comparison", display):
                pairs = self._compare(display, model, prompts, environment)
        result = report.build(
            settings,
            metrics,
            pairs,
            command=self._command,
            phases=self._phases | {"total": sum(self._phases.values())},
            notes=self._notes,
        )
        report.write(result, out)
        return result

    def _prepare_policy(self, display: Display) -> Path:
        if self._settings.model == "smollm2":
            display.start("converting SmolLM2-135M-Instruct", None)
            return smollm2.prepare(self._cache)
        display.start("training the policy on worked solutions", self._settings.policy.steps)
        return policy.prepare(self._cache, self._settings.policy, display.supervised)

    def _prepare_prompts(self, model: Path, display: Display) -> list[list[int]]:
        """Write the prompts for verl and return their token ids, as verl gives them to the engine."""
        settings = self._settings
        if settings.model == "tiny":
            display.start("choosing prompts that the policy solves sometimes", None)
            chosen = selection.choose(model, settings.prompts, report=display.selection)
        else:
            chosen = data.problems(settings.tasks, settings.prompts)
        rows = data.write(self._out / "data" / "train.parquet", chosen, settings.instruction)
        tokens = AutoTokenizer.from_pretrained(model)
        return [data.encode_prompt(tokens, row["prompt"]) for row in rows]

    def _train(
        self, display: Display, model: Path, address: str, environment: dict[str, str]
    ) -> list[training.MetricsLine]:
        display.start("starting verl and vLLM", self._settings.epochs * self._settings.steps_per_epoch)
        metrics = []
        arguments = training.arguments(self._settings, model, self._out, address)
        for line in training.train(arguments, self._out, environment, epochs=self._settings.epochs):
            metrics.append(line)
            display.training(line)
            if line["kind"] == "exit":
                self._notes.append(
                    f"The training process ended with status {line['status']} after its last step."
                )
        return metrics

    def _check_server(self, address: str) -> None:
        """Note that the server is gone; that training got here without it is the point."""
        try:
            client = DraftClient(address, timeout=5.0)
            try:
                client.stats()
            finally:
                client.close()
        except RedraftError:
            self._notes.append(
                "The draft server was gone before training ended: training went on, with drafts from the live "
                "groups and from indexes that had been fetched before."
            )

    def _compare(
        self, display: Display, model: Path, prompts: list[list[int]], environment: dict[str, str]
    ) -> list[Pair]:
        settings, out = self._settings, self._out
        display.start("starting two engines", None)
        history = responses(out / "history", training.RUN)
        # A server of its own, which is told the history again, epoch by epoch.
        with draft_server(out / "engine" / "history", out / "server-comparison.log", environment) as (
            address,
            _,
        ):
            return compare(settings, model, out, address, prompts, history, environment, display.comparison)

    def _environment(self) -> dict[str, str]:
        """Return the environment of the processes: that of the CPU recipe, which comparison engines share."""
        folder = self._out / "engine" / "site"
        folder.mkdir(parents=True)
        write_metadata(folder)
        environment = variables() | dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        # Trainer and engine take turns on the same cores: whoever waits must not spin.
        environment.setdefault("OMP_WAIT_POLICY", "passive")
        environment.setdefault("PYTHONUNBUFFERED", "1")
        return environment

    @contextmanager
    def _phase(self, name: str, display: Display) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._phases[name] = time.monotonic() - started
        display.finish()
