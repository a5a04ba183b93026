"""What the demo runs with, for each model and size: one table instead of numbers all over the place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from redraft.recipe.demo.policy import PolicyConfig
from redraft.recipe.demo.tasks import TASKS, Task


@dataclass(frozen=True)
class Settings:
    """One demo run. Lengths are in tokens."""

    model: str
    tasks: tuple[Task, ...]
    epochs: int
    prompts: int
    """Training prompts; every epoch runs over all of them."""
    prompts_per_step: int
    responses_per_prompt: int
    """Group size of GRPO."""
    temperature: float
    learning_rate: float
    warmup_steps: int
    """Training steps over which the learning rate rises: Adam's first steps are mostly noise."""
    updates_per_step: int
    micro_batch: int
    """Responses that the trainer computes at once; divides those of an update."""
    prompt_length: int
    response_length: int
    draft_tokens: int
    """Most draft tokens for a request in one engine step."""
    comparison_rounds: int
    """Times that drafting and plain decoding are compared at the demo's concurrency, for every epoch; each time with
    other prompts. The report has the medians."""
    single_rounds: int
    """Likewise for one request at a time."""
    single_prompts: int
    """Prompts of such a round."""
    single_epochs: int
    """Epochs with a measurement of one request at a time: first, last and evenly between."""
    instruction: str = ""
    """Added to every question."""
    hard_temperature: float | None = None
    """Temperature of one more measurement, beside that of training."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    trainer_mode: str = "sync"
    """verl's, of `choices.TRAINER_MODES`."""
    seed: int = 1

    @property
    def concurrency(self) -> int:
        """Requests in the engine at the start of a training step."""
        return self.prompts_per_step * self.responses_per_prompt

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in one pass over the prompts."""
        return self.prompts // self.prompts_per_step

    @property
    def max_model_len(self) -> int:
        """Context of the engine: room for the drafts behind the longest response."""
        return self.prompt_length + self.response_length + self.draft_tokens


def choose(model: str, *, small: bool = False, **changes: Any) -> Settings:
    """Return a model's settings; `small` shortens everything; `changes` that are None count not."""
    settings = {"tiny": _tiny, "smollm2": _smollm2}[model](small)
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})


def _tiny(small: bool) -> Settings:
    settings = Settings(
        model="tiny",
        tasks=tuple(TASKS.values()),
        epochs=6,
        prompts=16,
        prompts_per_step=4,
        responses_per_prompt=16,
        temperature=1.0,
        learning_rate=2e-4,
        warmup_steps=4,
        updates_per_step=2,
        micro_batch=32,
        prompt_length=64,
        response_length=192,
        draft_tokens=8,
        comparison_rounds=3,
        single_rounds=4,
        single_prompts=1,
        single_epochs=3,
    )
    if not small:
        return settings
    policy = replace(settings.policy, examples=settings.policy.examples // 3)
    return replace(
        settings, policy=policy, epochs=3, prompts=8, comparison_rounds=1, single_rounds=2, single_epochs=2
    )


def _smollm2(small: bool) -> Settings:
    settings = Settings(
        model="smollm2",
        tasks=(TASKS["gcd"],),
        epochs=3,
        prompts=4,
        prompts_per_step=2,
        responses_per_prompt=8,
        temperature=0.6,
        learning_rate=1e-5,
        warmup_steps=1,
        updates_per_step=1,
        micro_batch=8,
        prompt_length=96,
        response_length=96,
        draft_tokens=6,
        comparison_rounds=1,
        single_rounds=2,
        single_prompts=1,
        single_epochs=2,
        instruction=" Show your steps in short. End with <answer>the number</answer>.",
        hard_temperature=1.0,
    )
    return replace(settings, epochs=2, response_length=48) if small else settings
