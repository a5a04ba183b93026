"""What an agent loop worker does with a finished trajectory: publish it and count it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from redraft.client import Publisher
from redraft.errors import InvalidArgument
from redraft.recipe.verl.attempts import Attempt
from redraft.recipe.verl.servers import Servers
from redraft.recipe.verl.tally import SPEC_KEYS, Slot, Tally
from redraft.rollout import Rollout
from redraft.vocabulary import Vocabulary

_LOG = logging.getLogger("redraft.recipe.verl")

EPOCH, OCCURRENCE = "redraft_epoch", "redraft_occurrence"
"""Columns that the trainer and the agent loop manager add to a batch of prompts."""

OCCURRENCE_STRIDE = 1 << 16
"""A data set may hold a prompt twice in one step; the groups' samples are numbered apart by this."""


class Recorder:
    """Publishes the trajectories of one agent loop worker and counts them by slot.

    Args:
        session: what the trainer decided: `addresses` (host:port, or one file:PATH, which is followed), `run`,
            `vocabulary` (size, fingerprint), `publish_validation`; None or no addresses: count only.

    Raises:
        InvalidArgument: the file cannot be read or holds no addresses.
    """

    def __init__(self, session: Mapping[str, Any] | None) -> None:
        session = session or {}
        self._publish_validation = bool(session.get("publish_validation", True))
        self._tallies: dict[Slot, Tally] = {}
        self._malformed = 0
        self._publisher: Publisher | None = None
        if session.get("addresses"):
            vocabulary = Vocabulary(**session.get("vocabulary", {}))
            servers = Servers(session["addresses"])
            self._publisher = Publisher(servers.now, run=str(session["run"]), vocabulary=vocabulary)
            self._followed = servers.follow(self._publisher)

    def record(
        self,
        outputs: Sequence[Any],
        validate: bool,
        fields: Mapping[str, Any],
        times: tuple[float, float],
        attempts: Sequence[Attempt] = (),
    ) -> None:
        """Count and publish the trajectories of one finished agent loop; never raises for a bad one.

        Args:
            outputs: verl's AgentLoopOutput, one for each trajectory of the session, rewards filled in.
            validate: whether this is a validation rollout.
            fields: the prompt's columns: `uid`, `session_id`, `global_steps`, EPOCH, OCCURRENCE.
            times: when the loop began to generate and when it ended, seconds since 1970.
            attempts: the loop's requests to the engines, in their order; empty: what `outputs` say has to do.
        """
        slot = Slot(bool(validate), int(fields["global_steps"]), int(fields.get(EPOCH, 0)))
        tally = self._tallies.setdefault(slot, Tally())
        tally.merge(Tally(started=times[0], ended=times[1]))
        for output in outputs:
            tally.merge(_count(output, metered=not attempts))
        for attempt in attempts:
            tally.merge(_metered(attempt))
        if self._publisher is None or (validate and not self._publish_validation):
            return
        sample = int(fields.get(OCCURRENCE, 0)) * OCCURRENCE_STRIDE + int(fields["session_id"])
        for output in outputs:
            try:
                group_id = str(fields.get("uid", ""))
                self._publisher.publish(
                    [_rollout(output, slot, sample, group_id, _versions(output, attempts))]
                )
            except InvalidArgument as error:
                self._malformed += 1
                if self._malformed == 1:
                    _LOG.warning(
                        "redraft: a response is not published: %s (further ones are only counted)", error
                    )

    async def collect(self, flush_timeout: float) -> dict[str, Any]:
        """Return and reset the tallies, and tell how publishing fares since the start.

        Args:
            flush_timeout: wait at most this many seconds for responses still to be sent; 0: do not wait.

        Returns:
            {"tallies": {Slot: Tally}, "publisher": counts of PublisherStats, and `malformed`}.
        """
        publisher: dict[str, Any] = {"malformed": self._malformed}
        if self._publisher is not None:
            if flush_timeout > 0:
                await asyncio.to_thread(self._publisher.flush, flush_timeout)
            publisher |= asdict(self._publisher.stats())
        tallies, self._tallies = self._tallies, {}
        return {"tallies": tallies, "publisher": publisher}


def now() -> float:
    """Return the time in seconds since 1970; nodes' clocks are expected to agree within milliseconds."""
    return time.time()


def generation_start(outputs: Sequence[Any], started: float, ended: float) -> float:
    """Return when a loop that ran from `started` to `ended` began to generate, in seconds since 1970.

    A single trajectory generates (and calls tools) until its loop ends; what came before is the preparation of
    the prompt, and for the first loops of a worker its imports.
    """
    if len(outputs) != 1:
        return started
    busy = outputs[0].metrics.generate_sequences + outputs[0].metrics.tool_calls
    return max(started, ended - busy) if busy > 0 else started


def _count(output: Any, metered: bool) -> Tally:
    tokens = int(sum(output.response_mask))
    tally = Tally(trajectories=1, generated_tokens=tokens)
    counts = [output.extra_fields.get(key) for key in SPEC_KEYS]
    if metered and None not in counts:
        tally.drafted, tally.accepted, tally.verify_steps = (int(n) for n in counts)
        tally.metered_tokens = tokens
    if output.reward_score is not None:
        tally.rewarded, tally.reward_sum = 1, float(output.reward_score)
    return tally


def _metered(attempt: Attempt) -> Tally:
    """Return what the engine told of an attempt; nothing of one that was aborted, whose tokens stay unmetered."""
    if attempt.counters is None:
        return Tally()
    drafted, accepted, steps = attempt.counters
    return Tally(drafted=drafted, accepted=accepted, verify_steps=steps, metered_tokens=attempt.tokens)


def _versions(output: Any, attempts: Sequence[Attempt]) -> tuple[int, int] | None:
    """Return the weights that wrote the trajectory's first and last tokens; None when nothing tells."""
    told = [attempt.version for attempt in attempts if attempt.version is not None and attempt.tokens]
    told = told or [output.extra_fields.get(f"{end}_global_steps") for end in ("min", "max")]
    if not told or None in told:
        return None
    return int(min(told)), int(max(told))


def _rollout(
    output: Any, slot: Slot, sample: int, group_id: str, versions: tuple[int, int] | None
) -> Rollout:
    reward = output.reward_score
    return Rollout(
        prompt_token_ids=np.asarray(output.prompt_ids, dtype=np.int32),
        response_token_ids=np.asarray(output.response_ids, dtype=np.int32),
        epoch=slot.epoch,
        step=slot.step,
        sample=sample,
        reward=float(reward) if reward is not None and np.isfinite(reward) else None,
        group_id=group_id,
        validation=slot.validation,
        response_mask=output.response_mask,
        weight_versions=versions,
    )
