"""The class that vLLM constructs for `speculative_config={"method": "custom_class", "model": ...}`."""

from __future__ import annotations

import collections
import logging
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from redraft._core import Drafter
from redraft.auto_budget import PLAIN, AutoBudget, Plan
from redraft.cost_table import read_cost_table
from redraft.errors import FailedPrecondition, InvalidArgument
from redraft.recipe.vllm import exactness, plain_steps, servers, start_up
from redraft.recipe.vllm.calibration import KeptCalibration
from redraft.recipe.vllm.groups import Groups
from redraft.recipe.vllm.options import Options, load_options
from redraft.recipe.vllm.reporting import Housekeeping, Stats, by_source
from redraft.recipe.vllm.requests import Batch, Requests
from redraft.recipe.vllm.responses import EndedResponses
from redraft.recipe.vllm.siblings import NoSiblings, make_siblings
from redraft.recipe.vllm.sources import EmbeddedHistory, HistorySource

Int32Array = npt.NDArray[np.int32]

MAX_DRAFT_TOKENS = 128
"""vLLM's rejection sampler verifies at most this many draft tokens a request."""

REFRESH_SECONDS = 2.0
"""How often newer history is asked for, for prompts that are being rolled out."""

PUT_OFF_SECONDS = 0.02
"""While nothing is drafted, tokens of several steps are taken note of together, for the price of one: this late at
least, which is what the relay takes anyway."""

PUT_OFF_SHARE = 0.001
"""And so late that it takes at most this share of the time, up to `PUT_OFF_MOST` seconds."""

PUT_OFF_MOST = 1.0

PUT_OFF_UNREAD = 30.0
"""Likewise where nothing is ever drafted and nothing relayed: then nobody reads the tokens while a request runs."""

TIMED_STEPS = 16
"""Steps between two runs of the housekeeping thread that the estimate of what drafting saves is made from."""

IDLE_SECONDS = (1.0, 5.0)
"""Without a call for this long, the housekeeping thread closes the requests that vLLM has let go of, and then
all: the last step's are let go of in the next step only, which may be hours away. A request that goes on after
all (it was paused) is opened again."""

DRAFT = Plan(True, None)

_proposers: weakref.WeakSet[RedraftProposer] = weakref.WeakSet()


def proposers() -> list[RedraftProposer]:
    """Return this process's proposers; their `stats()` is the way to read counts inside the engine's
    process."""
    return list(_proposers)


class RedraftProposer:
    """Drafts from the group's live text and the prompt's history, one core call per engine step.

    Exactness rests with vLLM: whatever is drafted here, its rejection sampler keeps the target's
    distribution. So nothing here may stop the engine: while running, an unexpected error is logged and
    drafting goes off (`Options.strict` raises it instead).

    Args:
        vllm_config: vLLM's `VllmConfig`; the options are in its `additional_config["redraft"]` and in the
            environment (`options.py`).

    Raises:
        FailedPrecondition: an untested vLLM, one whose ranks can't be kept in step, or one that verifies inexactly.
        InvalidArgument: a malformed option; the message starts with its name.
    """

    bounds_drafts = True
    """No draft goes beyond `max_model_len` (`patches.ask_up_to_the_longest_text`)."""

    plain_steps = False
    """Whether a step without drafts may take vLLM's plain path (`plain_steps.decode_plainly`)."""

    def __init__(self, vllm_config: Any) -> None:
        self._options = load_options(vllm_config.additional_config)
        exactness.check_rule(vllm_config.speculative_config)
        start_up.prepare_vllm()
        self.plain_steps = not plain_steps.is_recurrent(vllm_config.model_config)
        self._most = vllm_config.speculative_config.num_speculative_tokens
        if not 1 <= self._most <= MAX_DRAFT_TOKENS:
            raise InvalidArgument(
                f"num_speculative_tokens: {self._most} is not between 1 and {MAX_DRAFT_TOKENS}, the most that"
                " vLLM's rejection sampler takes"
            )
        self._logger = logging.getLogger("vllm.redraft")  # vLLM shows what is below its own name
        self._drafts = start_up.is_drafting_rank(vllm_config.parallel_config)
        if self._drafts:
            self._start(vllm_config)

    def _start(self, vllm_config: Any) -> None:
        """Allocate what drafting needs; on other ranks nothing of it exists."""
        options = servers.resolve(self._options)
        self._vocab_size = vllm_config.model_config.get_vocab_size()
        max_model_len = vllm_config.model_config.max_model_len
        self._budget: AutoBudget | None = None
        if options.budget == "auto":
            table = read_cost_table(Path(options.cost_table)) if options.cost_table else None
            scheduler = getattr(vllm_config, "scheduler_config", None)
            self._budget = AutoBudget(self._most * getattr(scheduler, "max_num_seqs", 256), table)
        # Without a budget to decide by, what steps cost is learned on the side, to tell what drafting saves.
        self._estimate = self._budget or AutoBudget(self._most * 256)
        self._timed: collections.deque[tuple[int, int, int, float]] = collections.deque(maxlen=TIMED_STEPS)
        self._decoded: tuple[int, int] | None = None
        self._called = 0.0
        self._granted = 0
        self._lock = threading.Lock()
        self._drafter = Drafter(
            min_survival=options.min_survival, policy=options.policy, num_threads=options.threads
        )
        self._calibration = KeptCalibration(options.calibration_dir, options.run, self._drafter, self._logger)
        self._ended = EndedResponses(options.history_tokens)
        self._source = _make_source(options, self._ended)
        self._groups = Groups(self._source, self._ended)
        self._siblings = make_siblings(options)
        self._requests = Requests(
            self._drafter, self._groups, self._ended, self._siblings, max_model_len, time.monotonic
        )
        self._batch: Batch | None = None
        self._states: Mapping[str, Any] = {}
        self._horizon = self._most
        self._never = options.budget == 0
        self._req_ids: list[str] = []
        self._decoding: list[str] = []  # likewise, where every row had sampled
        self._total = 0
        self._advance_by = 0.0
        self._engine_steps = 0
        self._rested = 0  # steps in which `rests` said yes; only ever grows, and needs no lock
        self._settled = 0  # of these, the ones that the counts below already hold
        unread = self._never and isinstance(self._siblings, NoSiblings)
        self._put_off_most = PUT_OFF_UNREAD if unread else PUT_OFF_MOST
        self._seconds = 0.0
        self._last_call = self._refreshed = time.monotonic()
        self._housekeeping = Housekeeping(options, self.stats, self._keep_house, self._logger)
        self._followed = servers.Followed(self._options, self._source, self._siblings, self._housekeeping)
        _proposers.add(self)

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: there is no model. vLLM calls it unconditionally."""

    def before_propose(self, batch: Batch, requests: Mapping[str, Any], scheduler_output: Any) -> None:
        """Take the runner's batch (`patches.hand_over_batch`) just before `propose`.

        Args:
            batch: the runner's `InputBatch`.
            requests: its states by request id: every request that has started and not ended.
            scheduler_output: this step's; read for dynamic speculation's number of tokens, and for what was
                computed in the step, so that its time can be laid to something.
        """
        if self._drafts:
            self._batch = batch
            self._states = requests
            scheduled = getattr(scheduler_output, "num_spec_tokens_to_schedule", None)
            self._horizon = self._most if scheduled is None else min(scheduled, self._most)
            if self._options.budget != 0:
                self._decoded = decoded(scheduler_output)

    def rests(self, batch: Batch, scheduler_output: Any) -> bool:
        """Tell before a step without drafts whether vLLM needn't ask for drafts after it (`plain_steps`).

        So it is where nothing is ever drafted, every row decodes, and the rows are the ones that are known: `propose`
        would only count the step, which is done here. It is what is left to do in each step: as little as can be.

        Args:
            batch: the runner's `InputBatch`, up to date for the step.
            scheduler_output: the step's.
        """
        if not self._drafts:
            return True
        rows = len(self._decoding)
        if (
            not self._never
            or scheduler_output.total_num_scheduled_tokens != rows
            or len(scheduler_output.num_scheduled_tokens) != rows
            or batch.req_ids != self._decoding
        ):
            return False
        self._last_call = now = time.monotonic()
        if now >= self._advance_by:
            return False
        self._rested += 1
        return True

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: Int32Array,
        token_ids_cpu: Int32Array,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Return each row's draft; vLLM calls this once per engine step, after sampling.

        Args:
            sampled_token_ids: what each row of the batch sampled; empty for a row still in prefill.
            num_tokens_no_spec: int32, shape (max_num_reqs,); the batch handed over holds the same array.
            token_ids_cpu: int32, shape (max_num_reqs, max_model_len); likewise.
            slot_mappings: not used.

        Returns:
            One list for each row, 0 to `num_speculative_tokens` token ids.
        """
        if not self._drafts:
            return [[] for _ in sampled_token_ids]
        self._last_call = time.monotonic()
        started = time.perf_counter()
        try:
            with self._lock:
                return self._draft(sampled_token_ids)
        except Exception:
            if self._options.strict:
                raise
            self._logger.exception("redraft: drafting failed and is off from here on; vLLM decodes plainly")
            self._drafts = False
            return [[] for _ in sampled_token_ids]
        finally:
            self._seconds += time.perf_counter() - started

    def stats(self) -> Stats:
        """Return the counts so far. Safe to call from any thread of the engine's process."""
        with self._lock:
            self._settle()
            counts = self._drafter.stats()
            relay = self._siblings.stats()
            fetches, fetch_seconds = self._source.fetches
            return Stats(
                engine_steps=self._engine_steps,
                steps=int(counts["steps"][0]) + self._requests.steps_put_off,
                emitted=int(counts["emitted"][0]) + self._requests.put_off,
                drafted=by_source(counts["drafted"]),
                accepted=by_source(counts["accepted"]),
                draft_seconds=self._seconds,
                index_bytes=self._drafter.nbytes + self._groups.num_bytes + self._source.num_bytes,
                unavailable=self._source.num_unavailable,
                requests=len(self._requests),
                groups=len(self._groups),
                relayed=relay.received_tokens,
                relay_sent=relay.sent_tokens,
                relay_lost=relay.dropped_tokens + relay.missed_tokens,
                relay_gaps=relay.gaps,
                relay_failures=relay.failures,
                fetches=fetches,
                fetch_seconds=fetch_seconds,
                timed_seconds=self._estimate.seconds,
                plain_seconds=self._estimate.plain_seconds,
                granted=self._granted,
                saving=self._estimate.saving,
                step_costs=[] if self._budget is None else self._budget.table(),
            )

    def close(self) -> None:
        """Stop drafting and every background thread; a last report is sent. vLLM never calls it."""
        if self._drafts:
            self._drafts = False
            with self._lock:
                self._settle()
                self._requests.close()
            self._followed.close()
            self._housekeeping.close()
            self._calibration.close()
            self._source.close()
            self._siblings.close()

    def _draft(self, sampled: list[list[int]]) -> list[list[int]]:
        if self._batch is None:
            raise FailedPrecondition("before_propose: was not called; another plugin undid redraft's patch")
        self._settle()
        self._engine_steps += 1
        batch = self._batch
        plan = None
        if self._granted == 0 and self._last_call < self._advance_by and batch.req_ids == self._req_ids:
            # Nothing was drafted and the requests are the same: whatever else there is to know can wait.
            plan = self._plan(sampled, self._fresh(batch, len(sampled)))
            if not plan.draft:
                self._requests.put_off_steps(sum(map(len, sampled)))
                self._decoding = self._req_ids if all(sampled) else []
                return [[] for _ in sampled]
        waiting = self._requests.put_off
        step = self._requests.advance(batch, self._states, sampled)
        if plan is None:
            plan = self._plan(sampled, len(step.token_ids) - waiting)
            self._fresh(batch, len(sampled))
        self._req_ids = list(batch.req_ids)
        self._decoding = self._req_ids if all(sampled) else []
        for group in self._groups.arrivals(time.monotonic()):
            for handle in group.requests:
                self._drafter.set_history(handle, group.history)
        horizons = np.minimum(step.room, self._horizon if plan.draft else 0).astype(np.int32)
        bound = -1 if self._budget is not None else int(self._options.budget)
        drafts = self._drafter.step(
            step.handles, step.token_ids, step.offsets, horizons, budget=bound, costs=plan.costs
        )
        self._granted = len(drafts.token_ids)
        took = time.monotonic() - self._last_call
        self._advance_by = self._last_call + max(
            PUT_OFF_SECONDS, min(took / PUT_OFF_SHARE, self._put_off_most)
        )
        if not len(drafts.token_ids):
            return [[] for _ in sampled]
        return exactness.within_bounds(drafts.token_ids, drafts.offsets, horizons, self._vocab_size)

    def _settle(self) -> None:
        """Count the steps that `rests` left alone since the last call, each with a token for every row; under the
        lock."""
        rested = self._rested - self._settled
        if rested:
            self._settled += rested
            self._engine_steps += rested
            self._requests.put_off_steps(rested * len(self._decoding))

    def _plan(self, sampled: list[list[int]], fresh: int) -> Plan:
        """Tell the budget what the step that ended took, and return how to draft for the next one."""
        if self._options.budget == 0:
            return PLAIN
        now = time.perf_counter()
        seconds, self._called = now - self._called, now
        emitted = sum(map(len, sampled))
        # More fresh tokens than were sampled: vLLM made a step without calling the proposer.
        if self._decoded is not None and seconds < now and fresh <= emitted:
            if self._budget is None:
                self._timed.append((*self._decoded, emitted, seconds))
            else:
                self._budget.observe(*self._decoded, emitted, seconds)
        if self._budget is None:
            return DRAFT if self._horizon > 0 else PLAIN
        return self._budget.plan(len(sampled)) if sampled else PLAIN

    def _fresh(self, batch: Batch, rows: int) -> int:
        """Return how many tokens the batch gained since the last call, for as long as its requests are the same; 0
        where nothing is ever drafted."""
        if self._options.budget == 0:
            return 0
        before, self._total = self._total, int(batch.num_tokens_no_spec[:rows].sum())
        return self._total - before

    def _keep_house(self) -> None:
        """Do what needs no engine step; called now and then by the housekeeping thread."""
        if self._budget is None and self._timed:
            timed = [self._timed.popleft() for _ in range(len(self._timed))]
            with self._lock:
                for step in timed:
                    self._estimate.observe(*step)
        now = time.monotonic()
        if now - self._refreshed > REFRESH_SECONDS:
            self._refreshed = now
            with self._lock:
                prompts = self._groups.prompts()
            for prompt in prompts:
                self._source.prefetch(prompt)
        idle = now - self._last_call
        if idle > IDLE_SECONDS[0] and len(self._requests):
            with self._lock:
                self._settle()
                self._requests.sweep(self._states if idle < IDLE_SECONDS[1] else {})
        self._calibration.keep()


def decoded(scheduler_output: Any) -> tuple[int, int] | None:
    """Return requests and draft tokens of a step that decoded and did nothing else, or None.

    Args:
        scheduler_output: vLLM's `SchedulerOutput`; one without the fields that are read says nothing.
    """
    scheduled = getattr(scheduler_output, "num_scheduled_tokens", None)
    drafts = getattr(scheduler_output, "scheduled_spec_decode_tokens", None)
    if not scheduled or drafts is None or getattr(scheduler_output, "scheduled_new_reqs", True):
        return None
    draft_tokens = sum(map(len, drafts.values()))
    decodes = sum(scheduled.values()) == len(scheduled) + draft_tokens
    return (len(scheduled), draft_tokens) if decodes else None


def _make_source(options: Options, ended: EndedResponses) -> HistorySource:
    if not options.addresses:
        return EmbeddedHistory(ended)
    from redraft.recipe.vllm.server_history import ServerHistory

    return ServerHistory(options.addresses, run=options.run, vocabulary=options.vocabulary)
