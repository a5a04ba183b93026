"""What redraft overrides, calls and relies on in verl. Fingerprints are of definitions that were read."""

from __future__ import annotations

from redraft.recipe.compatibility.contracts import Contract

_BASE = "verl/trainer/ppo/v1/trainer_base.py"
_LOOPS = "verl/experimental/agent_loop/agent_loop.py"
_LOOPS_V1 = "verl/trainer/ppo/v1/agent_loop_tq.py"
_FULLY_ASYNC = "verl/experimental/fully_async_policy/"
_CLIENT = "verl/workers/rollout/llm_server.py"
_SERVER = "verl/workers/rollout/vllm_rollout/vllm_async_server.py"

OVERRIDDEN: tuple[Contract, ...] = (
    Contract(
        "verl/trainer/main_ppo.py",
        "TaskRunnerV1.run",
        "looks the trainer up in TRAINER_REGISTRY and keeps it as `self.trainer`",
        {"94eabc61327192c1": "0.9.0"},
        parameters=("config",),
    ),
    Contract(
        _BASE,
        "TRAINER_REGISTRY",
        "mode -> trainer class; an entry is replaced (verl.task_runner)",
        {"54d372e76325234d": "0.9.0"},
    ),
    Contract(
        _BASE,
        "PPOTrainer.__init__",
        "takes the configuration alone and starts nothing",
        {"cd73c6dd03e4cbaa": "0.9.0", "adfce748a87eada6": "0.9.1"},
        parameters=("config",),
    ),
    Contract(
        _BASE,
        "PPOTrainer._init_dataloader",
        "the first moment at which tokenizer and data are known and no engine runs; drafting is configured here",
        {"327eb88ff9993a31": "0.9.0"},
    ),
    Contract(
        _BASE,
        "PPOTrainer._build_replay_buffer",
        "returns the buffer whose `poll_interval` is set",
        {"b48ef636572c1cfa": "0.9.0"},
    ),
    Contract(
        _BASE,
        "PPOTrainer._load_checkpoint",
        "`global_steps` is the resumed step afterwards",
        {"2870aabc370bc52d": "0.9.0", "e6cca3f551fc8cd0": "0.9.1"},
    ),
    Contract(
        _BASE,
        "PPOTrainer._fetch_one_gen_batch",
        "the next prompts as a TensorDict; `train_dataloader_it` is new with every pass",
        {"f3df33bbd1297039": "0.9.0"},
    ),
    Contract(
        _BASE,
        "PPOTrainer._validate",
        "rolls the validation prompts out and returns metrics",
        {"dfe66c8082bcc655": "0.9.0", "b4fa256ef3f11707": "0.9.1"},
    ),
    Contract(
        _BASE,
        "PPOTrainer.on_step_end",
        "called after a step's update",
        {"aed7c9e4929fe5ee": "0.9.0"},
    ),
    Contract(
        _BASE,
        "PPOTrainer._compute_metrics",
        "fills `metrics` once a step, before they are logged",
        {"fdc20817f5c4e5d7": "0.9.0", "822342ecc75a0f3a": "0.9.1"},
        parameters=("batch", "metrics", "timing_raw", "global_steps", "epoch"),
    ),
    Contract(
        _LOOPS_V1,
        "AgentLoopWorkerTQ._agent_loop_postprocess",
        "called once for each finished session, with its outputs and the prompt's columns",
        {"ead2b3a2bfc71603": "0.9.0"},
        parameters=("output", "validate"),
    ),
    Contract(
        _LOOPS,
        "AgentLoopWorker._run_agent_loop",
        "passes its keywords on to `_agent_loop_postprocess`",
        {"8253f0dfb571b304": "0.9.0", "eee2449f137aa7a2": "0.9.1"},
        parameters=("sampling_params",),
    ),
    Contract(
        _LOOPS,
        "AgentLoopManager._init_agent_loop_workers",
        "makes `agent_loop_workers` from `agent_loop_workers_class`",
        {"658eeced4f32cb70": "0.9.0"},
    ),
    Contract(
        _LOOPS_V1,
        "AgentLoopManagerTQ.generate_sequences",
        "dispatches a batch of prompts; further columns reach the agent loops",
        {"dbb8569c649ea504": "0.9.0"},
        parameters=("prompts",),
    ),
    Contract(
        _LOOPS,
        "AgentLoopWorker._agent_loop_postprocess",
        "as the V1 worker's, for trainers that hand out batches",
        {"4bc54b212d6dcff4": "0.9.0", "888c93be87d846eb": "0.9.1"},
        parameters=("output", "validate"),
    ),
    Contract(
        _LOOPS,
        "AgentLoopManager.generate_sequences",
        "rolls a batch out; further columns reach the agent loops",
        {"9454feb3de3c98f2": "0.9.0"},
        parameters=("prompts",),
    ),
    Contract(
        _FULLY_ASYNC + "fully_async_main.py",
        "main",
        "hands `FullyAsyncTaskRunner`, which is replaced in its module, to `run_ppo` (main_fully_async)",
        {"078723e0513a296c": "0.9.0"},
        parameters=("config",),
    ),
    Contract(
        _FULLY_ASYNC + "fully_async_main.py",
        "FullyAsyncTaskRunner._create_rollouter",
        "makes and starts the rollouter (verl.fully_async)",
        {"9b7093865a090758": "0.9.0"},
        parameters=("config",),
    ),
    Contract(
        _FULLY_ASYNC + "fully_async_rollouter.py",
        "FullyAsyncRollouter._init_async_rollout_manager",
        "starts the engines and makes the agent loops' manager, which is replaced (verl.fully_async)",
        {"a6aec6c6578f45c9": "0.9.0"},
    ),
    Contract(
        _FULLY_ASYNC + "fully_async_rollouter.py",
        "FullyAsyncRollouter._feed_samples",
        "names samples sample_<epoch>_<number>, numbers from 1",
        {"7ecd55dcc25785df": "0.9.0"},
    ),
    Contract(
        _FULLY_ASYNC + "fully_async_rollouter.py",
        "FullyAsyncAgentLoopManager.generate_sequences_single",
        "rolls one prompt's samples out",
        {"fbfe1d1620bd3cbd": "0.9.0"},
        parameters=("prompts",),
    ),
    Contract(
        _CLIENT,
        "LLMServerClient.generate",
        "one request to an engine; returns its TokenOutput",
        {"0c5b6584a55a23a5": "0.9.0", "fc5e46cd2b77a0b7": "0.9.1"},
        parameters=("request_id",),
    ),
    Contract(
        _CLIENT,
        "FullyAsyncLLMServerClient.generate",
        "resumes aborted requests, each attempt a call of the next class's `generate`",
        {"61bb664a51135b40": "0.9.0", "352899b3136d0bf4": "0.9.1"},
        parameters=("request_id",),
    ),
    Contract(
        "verl/checkpoint_engine/base.py",
        "CheckpointEngine",
        "what a way to hand weights over must answer (cpu.checkpoint_engine)",
        {"ec10315afbd0e22d": "0.9.0"},
    ),
    Contract(
        _SERVER,
        "vLLMHttpServer._get_worker_extension_cls",
        "names the worker extension, which is verl's own without quantization",
        {"c350debfd829c745": "0.9.0"},
    ),
    Contract(
        _SERVER,
        "vLLMHttpServer.run_server",
        "leaves the engine in `self.engine`",
        {"4b3de7c45833d195": "0.9.0"},
        parameters=("args",),
    ),
    Contract(
        _SERVER,
        "vLLMHttpServer.generate",
        "one request; returns a TokenOutput with `extra_fields`",
        {"ef051a81330ad82c": "0.9.0", "5fdb8cc69c5a8b9a": "0.9.1"},
        parameters=("prompt_ids", "sampling_params", "request_id"),
    ),
    Contract(
        _SERVER,
        "vLLMReplica.__init__",
        "sets `server_class`, which is replaced",
        {"5417f3e38ababdc5": "0.9.0"},
    ),
)
"""Methods that the recipe's subclasses override and call, and what is replaced."""

RELIED_ON: tuple[Contract, ...] = (
    Contract(
        _SERVER,
        "vLLMHttpServer.launch_server",
        "`engine_kwargs.vllm` reaches vLLM unchanged: speculative_config, additional_config",
        {"205d95cb21253188": "0.9.0", "ad42b57d8c6de649": "0.9.1"},
    ),
    Contract(
        "verl/trainer/main_ppo.py",
        "run_ppo",
        "takes another task runner",
        {"fef4eb57128453e1": "0.9.0", "520a2cbe6a341d85": "0.9.1"},
        parameters=("config", "task_runner_class"),
    ),
    Contract(
        _BASE,
        "PPOTrainer",
        "what the trainers' mixin reads",
        members=(
            "_restored_tq_prompt_count",
            "_rollout_server_managers",
            "agent_loop_manager",
            "actor_rollout_wg",
            "global_steps",
            "llm_server_manager",
            "train_dataloader",
            "steps_per_epoch",
            "timing_raw",
            "tokenizer",
            "total_training_steps",
            "train_dataloader_it",
        ),
    ),
    Contract(
        _LOOPS,
        "AgentLoopOutput",
        "a finished trajectory",
        members=("prompt_ids", "response_ids", "response_mask", "reward_score", "extra_fields", "metrics"),
    ),
    Contract(
        "verl/workers/rollout/replica.py",
        "RolloutReplicaRegistry.register",
        "a name registered again is replaced; the loader is called where a replica is made",
        {"ede7d4050ce012f0": "0.9.0"},
        parameters=("name", "loader"),
    ),
    Contract(
        "verl/workers/rollout/vllm_rollout/utils.py",
        "vLLMColocateWorkerExtension",
        "verl's methods on vLLM's workers, the base of ours",
        {"ee5b6bf80207dda4": "0.9.0", "5e07f14691a0256e": "0.9.1"},
    ),
    Contract(
        "verl/utils/tensordict_utils.py",
        "assign_non_tensor_stack",
        "adds a column to a batch",
        {"6853cedc64f08110": "0.9.0"},
        parameters=("tensor_dict", "key", "val"),
    ),
    Contract(
        "verl/utils/tensordict_utils.py",
        "get",
        "reads a column or a batch's value",
        {"18ad3494db73443d": "0.9.0"},
        parameters=("tensordict", "key", "default"),
    ),
    Contract(
        "verl/utils/import_utils.py",
        "load_class_from_fqn",
        "loads a class by its path",
        {"b0ef8dd9e3467275": "0.9.0"},
    ),
    Contract(
        "verl/plugin/platform/platform_base.py",
        "PlatformBase",
        "what a platform must answer (cpu.platform)",
        {"5db0b856f9c05740": "0.9.0"},
    ),
    Contract(
        "verl/plugin/platform/platform_manager.py",
        "PlatformRegistry.register",
        "a decorator that registers a platform by name",
        {"2055fb275a53f4d8": "0.9.0"},
        parameters=("platform",),
    ),
)
"""Read, called or taken for granted."""

CONTRACTS = OVERRIDDEN + RELIED_ON
