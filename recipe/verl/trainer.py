"""verl's trainers with drafting: a mixin, and the modes that it is known to work with."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.debug import marked_timer
from verl.utils.import_utils import load_class_from_fqn
from verl.workers.rollout.replica import RolloutReplicaRegistry

from redraft.errors import FailedPrecondition
from redraft.recipe.verl.agent_loop import RedraftAgentLoopManager
from redraft.recipe.verl.draft_servers import DraftServers
from redraft.recipe.verl.options import MODES, Options, parse_options
from redraft.recipe.verl.recorder import EPOCH, now
from redraft.recipe.verl.report import MetricsFile, Period, as_metrics
from redraft.recipe.verl.rollout_server import engine_reports_requests, load_replica
from redraft.recipe.verl.servers import Servers
from redraft.recipe.verl.tally import Tally, merge_slots
from redraft.recipe.verl.watch import Drafting, DraftingWatch
from redraft.recipe.vllm.servers import Followed
from redraft.vocabulary import Vocabulary

_LOG = logging.getLogger("redraft.recipe.verl")
_LOG.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))

MANAGER = "redraft.recipe.verl.agent_loop.RedraftAgentLoopManager"


class RedraftMixin:
    """Drafting for a verl V1 trainer; goes before the trainer in the bases.

    Uses verl's own seams only: `_init_dataloader` (tokenizer and data are known, nothing is started yet),
    `_fetch_one_gen_batch`, `_build_replay_buffer`, `_load_checkpoint`, `_validate`, `on_step_end`,
    `_compute_metrics`.
    """

    # verl's, as its trainers have them.
    config: DictConfig
    tokenizer: Any
    global_steps: int
    total_training_steps: int
    steps_per_epoch: int
    train_dataloader: Any
    train_dataloader_it: Any
    timing_raw: dict[str, float]
    agent_loop_manager: Any
    actor_rollout_wg: Any
    _restored_tq_prompt_count: int
    _rollout_server_managers: Callable[[], Any]

    # ------------------------------------------------------------------ set-up

    def __init__(self, config: DictConfig) -> None:
        self._options: Options = parse_options(OmegaConf.to_container(config.redraft, resolve=True))
        self._servers: DraftServers | None = None
        self._watch: DraftingWatch | None = None
        self._followed: Followed | None = None
        self._file = MetricsFile(self._options.metrics_file, self._options.run)
        self._epochs: dict[int, Period] = defaultdict(Period)
        self._train, self._validation = Tally(), Tally()
        self._drafting = Drafting()
        self._publishing: dict[str, int] = {}
        self._pass: int | None = None
        self._counted_until = 0.0
        self._engines, self._taps = Drafting(), False
        super().__init__(config)  # type: ignore[call-arg]

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()  # type: ignore[misc]
        if self._options.poll_interval is not None:
            buffer.poll_interval = self._options.poll_interval
        return buffer

    def _init_dataloader(self) -> None:
        super()._init_dataloader()  # type: ignore[misc]
        with open_dict(self.config):
            self._configure_agent_loops()
            if self._options.enable:
                self._configure_drafting()
            if self._options.export_dir is not None:
                self._configure_export()
        self._file.write(
            "start",
            step=0,
            epoch=0,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.total_training_steps,
            enable=self._options.enable,
            addresses=list(self.config.redraft.session.get("addresses", [])),
            num_speculative_tokens=self._options.num_speculative_tokens,
            prompts_per_step=self.config.data.train_batch_size,
            responses_per_prompt=self.config.actor_rollout_ref.rollout.n,
        )

    def _configure_agent_loops(self) -> None:
        agent = self.config.actor_rollout_ref.rollout.agent
        name = agent.get("agent_loop_manager_class") or MANAGER
        if not issubclass(load_class_from_fqn(name, "AgentLoopManager"), RedraftAgentLoopManager):
            raise FailedPrecondition(
                f"actor_rollout_ref.rollout.agent.agent_loop_manager_class: {name} would replace the one that "
                f"publishes; derive it from {MANAGER}, or leave it null"
            )
        agent.agent_loop_manager_class = name
        self.config.redraft.session = {"steps_per_epoch": max(self.steps_per_epoch, 1)}

    def _configure_drafting(self) -> None:
        """Start or find the servers, and point the rollout engines and the agent loops at them."""
        options = self._options
        if not options.addresses:
            self._servers = DraftServers(options.server, options.run)
        addresses = list(options.addresses or self._servers.addresses)  # type: ignore[union-attr]
        servers = Servers(addresses)
        self._watch = DraftingWatch(servers.now, options.run)
        self._followed = servers.follow(self._watch)
        for address, held in self._watch.stored().items():
            _LOG.info("draft server %s holds %d responses of run %s", address, held, options.run)
        # The size stays unknown: models pad their embeddings beyond the tokenizer's ids.
        fingerprint = Vocabulary.from_tokenizer(self.tokenizer).fingerprint
        self.config.redraft.session.update(
            addresses=addresses,
            run=options.run,
            vocabulary={"fingerprint": fingerprint},
            publish_validation=options.publish_validation,
        )
        engine = self.config.actor_rollout_ref.rollout.engine_kwargs.vllm
        engine.speculative_config = {
            "method": "custom_class",
            "model": options.proposer,
            "num_speculative_tokens": options.num_speculative_tokens,
        }
        proposer = {"addresses": addresses, "run": options.run, "vocabulary": fingerprint}
        additional = OmegaConf.to_container(OmegaConf.create(engine.get("additional_config") or {}))
        engine.additional_config = {**additional, "redraft": {**proposer, **options.proposer_options}}
        if engine_reports_requests():
            engine.setdefault("per_request_spec_decode_metrics", "summary")
        RolloutReplicaRegistry.register("vllm", load_replica)
        self._taps = True

    def _configure_export(self) -> None:
        checkpoint = self.config.actor_rollout_ref.actor.checkpoint
        own = self.config.trainer.save_freq > 0
        contents = list(checkpoint.save_contents) if own else []
        checkpoint.save_contents = [*contents, *({"hf_model"} - set(contents))]

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()  # type: ignore[misc]
        if self.global_steps > 0 and self._watch is not None:
            # Steps that will be run again must not be drafted from the responses of their first time.
            self._watch.forget_from(self.global_steps + 1)

    # ------------------------------------------------------------------ rollouts

    def _fetch_one_gen_batch(self) -> Any:
        """Fetch prompts as verl does and mark them with the pass over the data that they belong to."""
        before = self.train_dataloader_it
        batch = super()._fetch_one_gen_batch()  # type: ignore[misc]
        if self._pass is None:
            self._pass = self._passes_before()
        elif self.train_dataloader_it is not before:
            self._pass += 1
        tu.assign_non_tensor_stack(batch, EPOCH, [self._pass] * len(batch))
        return batch

    def _passes_before(self) -> int:
        """Return how often the data was gone through before the first batch of this process."""
        data = self.config.data
        size = data.get("gen_batch_size") or data.train_batch_size
        # An asynchronous trainer that resumes has prompts in flight, fetched for steps that it has not made.
        fetched = max(self.global_steps - 1, 0) * data.train_batch_size + self._restored_tq_prompt_count
        return int(fetched // max(len(self.train_dataloader) * size, 1))

    def _collect(self, flush_timeout: float = 0.0) -> None:
        """Take over what the agent loop workers counted since the last time."""
        collected = self.agent_loop_manager.redraft_collect(flush_timeout)
        for slot, tally in merge_slots([collected["tallies"]]).items():
            (self._validation if slot.validation else self._train).merge(tally)
        self._publishing = collected["publisher"]

    def _take_drafting(self) -> Drafting:
        """Return what was drafted since the last call, asked of the engines themselves where they can tell."""
        if self._watch is None:
            return Drafting()
        told_by_servers = self._watch.take()  # also finds out whether servers answer
        engines = self._ask_engines()
        if engines is None:
            return told_by_servers
        since, self._engines = engines.since(self._engines), engines
        return since

    def _ask_engines(self) -> Drafting | None:
        # verl's own list of all that generate: an asynchronous trainer has engines beside the actor's.
        managers = self._rollout_server_managers()
        servers = [s for m in managers for r in m.get_replicas() for s in r.servers]
        if not self._taps or not servers:
            return None
        try:
            told = ray.get([server.redraft_stats.remote() for server in servers], timeout=30)
        except Exception as error:
            _LOG.warning(
                "redraft: the engines do not tell how drafts fare; asking the servers instead: %s", error
            )
            self._taps = False
            return None
        return Drafting.of_engines(stats for server in told for stats in server)

    # ------------------------------------------------------------------ figures

    def _validate(self) -> dict[str, Any]:
        self._drafting.add(self._take_drafting())  # what came before belongs to training
        metrics: dict[str, Any] = super()._validate()  # type: ignore[misc]
        self._collect()
        period = Period.of(self._validation, self._take_drafting())
        self._validation = Tally()
        epoch = max(self.global_steps - 1, 0) // max(self.steps_per_epoch, 1)
        metrics.update(as_metrics(period.figures(), "redraft/validation"))
        self._write("validation", period, epoch)
        return metrics

    def on_step_end(self) -> None:
        """Do what verl does, then export the weights if this was an epoch's last step."""
        super().on_step_end()  # type: ignore[misc]
        if self._options.export_dir is not None and self._ends_epoch(self.global_steps):
            epoch = (self.global_steps - 1) // max(self.steps_per_epoch, 1)
            path = os.path.join(os.path.abspath(self._options.export_dir), f"epoch_{epoch}")
            with marked_timer("redraft_export", self.timing_raw):
                self.actor_rollout_wg.save_checkpoint(path, None, self.global_steps)

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)  # type: ignore[misc]
        self._collect()
        if self._train.started is not None:
            # What an asynchronous trainer resumed was begun, and its time counted, in an earlier step.
            self._train.started = max(self._train.started, self._counted_until)
        self._counted_until = now()
        period = Period.of(self._train, self._drafting.add(self._take_drafting()))
        self._train, self._drafting = Tally(), Drafting()
        if period.tally.reward is None:
            score = metrics.get("critic/score/mean")
            if score is not None:  # rewards of a colocated reward model come after the rollout
                period.tally.rewarded, period.tally.reward_sum = 1, float(score)
        metrics.update(as_metrics(period.figures(), "redraft"))
        metrics.update(self._health())
        self._write("step", period, epoch, timing=dict(timing_raw))
        self._epochs[epoch].add(period)
        if self._ends_epoch(global_steps):
            whole = self._epochs.pop(epoch)
            metrics.update(as_metrics(whole.figures(), "redraft/epoch"))
            self._write("epoch", whole, epoch)

    def _write(self, kind: str, period: Period, epoch: int, **more: Any) -> None:
        self._file.write(
            kind,
            step=self.global_steps,
            epoch=epoch,
            reward=period.tally.reward,
            trajectories=period.tally.trajectories,
            **period.figures(),
            **{name.rsplit("/", 1)[1]: int(value) for name, value in self._health().items()},
            **more,
        )

    def _health(self) -> dict[str, float]:
        counts = self._publishing
        lost = counts.get("refused", 0) + counts.get("dropped", 0) + counts.get("malformed", 0)
        failures = self._watch.failures if self._watch is not None else 0
        return {
            "redraft/published": float(counts.get("published", 0)),
            "redraft/lost": float(lost),
            "redraft/server_failures": float(failures),
        }

    def _ends_epoch(self, step: int) -> bool:
        return step % max(self.steps_per_epoch, 1) == 0 or step >= self.total_training_steps

    # ------------------------------------------------------------------ end

    def redraft_close(self) -> None:
        """Send what is still to be sent, tell the last counts and stop the servers; safe after a failed start."""
        try:
            if getattr(self, "agent_loop_manager", None) is not None:
                self._collect(self._options.flush_timeout if self._options.enable else 0.0)
            if lost := self._publishing.get("pending", 0):
                _LOG.warning("redraft: %d responses could not be stored before training ended", lost)
            self._file.write("end", step=getattr(self, "global_steps", 0), **self._publishing)
        except Exception as error:
            _LOG.warning("redraft: the last responses may not have been published: %s", error)
        finally:
            self._file.close()
            if self._followed is not None:
                self._followed.close()
            if self._watch is not None:
                self._watch.close()
            if self._servers is not None:
                self._servers.stop()


class RedraftTrainerSync(RedraftMixin, PPOTrainerSync):
    """verl's synchronous trainer with drafting."""


class RedraftTrainerColocateAsync(RedraftMixin, PPOTrainerColocateAsync):
    """verl's trainer that shares its devices with the engines and resumes what it aborts, with drafting."""


class RedraftTrainerSeparateAsync(RedraftMixin, PPOTrainerSeparateAsync):
    """verl's trainer with engines on devices of their own, with drafting."""


TRAINERS: dict[str, type[RedraftMixin]] = dict(
    zip(MODES, (RedraftTrainerSync, RedraftTrainerColocateAsync, RedraftTrainerSeparateAsync), strict=True)
)
"""verl's `trainer.v1.trainer_mode` -> the trainer that replaces it; a further mode is added here and to MODES.

A mode keeps its name: verl takes every mode but "sync" for an asynchronous one.
"""
