"""What redraft patches, calls and relies on in vLLM. Fingerprints are of definitions that were read."""

from __future__ import annotations

from redraft.recipe.compatibility.contracts import Contract

_RUNNER = "vllm/v1/worker/gpu_model_runner.py"
_BATCH = "vllm/v1/worker/gpu_input_batch.py"
_SAMPLER = "vllm/v1/sample/rejection_sampler.py"

PATCHED: tuple[Contract, ...] = (
    Contract(
        _RUNNER,
        "GPUModelRunner.propose_draft_token_ids",
        "patched (vllm.patches): called once a step after sampling, with `scheduler_output` first; `self.drafter`,"
        " `self.input_batch` and `self.requests` are what the proposer is handed",
        {"0ccf6638727c94c7": "0.24.0", "0be03cce083b07b3": "0.33.0"},
        parameters=("scheduler_output",),
    ),
    Contract(
        _RUNNER,
        "GPUModelRunner._input_fits_in_drafter",
        "patched (vllm.patches): decides whether the proposer is asked or the step's drafts are zeros, nothing else",
        {"6971d45e5dfcc233": "0.24.0"},
        parameters=("common_attn_metadata",),
    ),
    Contract(
        _RUNNER,
        "GPUModelRunner._prepare_inputs",
        "patched (vllm.plain_steps): where it looks at `self.speculative_config` (0.32 and later) it does so only to"
        " decide whether a step has drafts to verify; without, the step's metadata is None",
        {
            "cf1af915a7374c7b": "0.24.0",
            "21285d4337b54e5d": "0.25.0",
            "7e565a200cb04974": "0.28.0",
            "176358fee97c52e5": "0.29.0",
            "c137fd59f52e00d4": "0.30.0",
            "cc8908ff0d50bc06": "0.32.0",
        },
        parameters=("scheduler_output",),
    ),
    Contract(
        _RUNNER,
        "GPUModelRunner.take_draft_token_ids",
        "patched (vllm.plain_steps): None where there is no draft; rows of drafts may differ in length and be empty",
        {"99e9382ac2d6c80c": "0.24.0"},
    ),
    Contract(
        "vllm/v1/executor/uniproc_executor.py",
        "UniProcExecutor.take_draft_token_ids",
        "patched (vllm.plain_steps): hands out what the runner of `self.driver_worker.worker` does, nothing else",
        {"1cc0da72a3c549e0": "0.24.0"},
    ),
    Contract(
        _RUNNER,
        "GPUModelRunner._sample",
        "patched on request (vllm.keyed_sampling): the one place that calls the samplers; without verification metadata"
        " the plain one, with it the rejection sampler",
        {"f10b2982abd48ae2": "0.24.0"},
        parameters=("logits", "spec_decode_metadata"),
    ),
    Contract(
        _SAMPLER,
        "apply_sampling_constraints",
        "patched on CPUs (vllm.cpu_sampler): a module-level function that the sampler calls by name",
        {"f9419a1eb9b3ad08": "0.24.0"},
        parameters=("logits", "cu_num_draft_tokens", "sampling_metadata"),
    ),
    Contract(
        _SAMPLER,
        "expand_batch_to_tokens",
        "patched on CPUs (vllm.cpu_sampler): a module-level function that the sampler calls by name",
        {"de6b9a350384950e": "0.24.0", "8028fdf523ad8263": "0.30.0"},
        parameters=("x", "cu_num_tokens", "num_tokens", "replace_from", "replace_to"),
    ),
    Contract(
        "vllm/model_executor/layers/utils.py",
        "dispatch_cpu_unquantized_gemm",
        "patched on CPUs where weights are loaded again (cpu.plain_linear): called with a layer, sets `cpu_linear`",
        parameters=("layer", "remove_weight"),
    ),
)
"""Replaced or wrapped at run time."""

RELIED_ON: tuple[Contract, ...] = (
    Contract(
        _RUNNER,
        "GPUModelRunner.propose_draft_token_ids",
        "`custom_class`: `propose(sampled_token_ids, num_tokens_no_spec, token_ids_cpu, slot_mappings=)`",
        {"5490338ee1bdd524": "0.24.0"},
        mention="custom_class",
    ),
    Contract(
        _RUNNER,
        "GPUModelRunner.__init__",
        "`custom_class`: `self.drafter` comes from `create_custom_proposer`, on the last pipeline stage",
        {"8e82760161bd20dc": "0.24.0"},
        mention="custom_class",
    ),
    Contract(
        _RUNNER,
        "GPUModelRunner._sample",
        "without verification metadata the plain sampler samples, with it the rejection sampler",
        {"f10b2982abd48ae2": "0.24.0"},
        parameters=("logits", "spec_decode_metadata"),
    ),
    Contract(
        _RUNNER,
        "GPUModelRunner._bookkeeping_sync",
        "accepted tokens are in `token_ids_cpu`, `num_tokens_no_spec` and the states before the proposer is called;"
        " a row in prefill sampled nothing",
        {"befd5efad3746e4e": "0.24.0", "c13b82fff056a50b": "0.28.0", "bac8f57a40e8d65e": "0.31.0"},
    ),
    Contract(
        _RUNNER,
        "GPUModelRunner.sample_tokens",
        "a `custom_class` is asked after the sampled tokens were booked, where `_input_fits_in_drafter` says yes; else"
        " all rows' drafts are zeros. Without `self.speculative_config` nobody is asked, and drafts are None",
        {
            "b433c627297adf9b": "0.24.0",
            "7c71f534ac5f7439": "0.25.0",
            "94771b5f19801f17": "0.28.0",
            "1cddc397337334e5": "0.31.0",
        },
    ),
    Contract(
        _RUNNER,
        "GPUModelRunner._update_states",
        "`requests` holds one state object from a request's first step until it ended or was aborted; an id that is"
        " used again gets another",
        {
            "ef041b3785ccf005": "0.24.0",
            "c99e26c717b39f03": "0.26.0",
            "017df273197bd2d5": "0.27.0",
            "92831cf88e4b96b8": "0.30.0",
        },
    ),
    Contract(
        _BATCH,
        "CachedRequestState",
        "a request's prompt, its output as a growing list, its sampling parameters",
        {"0843dbd44b3c5e01": "0.24.0", "3a499dc5971d5bc1": "0.30.0"},
        members=("prompt_token_ids", "output_token_ids", "sampling_params"),
    ),
    Contract(
        _BATCH,
        "InputBatch",
        "rows by `req_ids`; int32 arrays over all rows, `token_ids_cpu` contiguous",
        members=(
            "req_ids",
            "num_prompt_tokens",
            "num_tokens_no_spec",
            "token_ids_cpu",
            "thinking_budget_state_holder",
        ),
    ),
    Contract(
        _BATCH,
        "InputBatch.req_ids",
        "ids in the order of the rows, without holes",
        {"89e4e227bf8fb6d7": "0.24.0"},
    ),
    Contract(
        _BATCH,
        "InputBatch.add_request",
        "a row is filled with prompt and output when a request gets it",
        {"192fb76d613271ab": "0.24.0", "ed3fbb6b083a94f0": "0.27.0", "5c6a79cae94858c8": "0.29.0"},
    ),
    Contract(
        _BATCH,
        "InputBatch.condense",
        "the last rows move into holes, text and lengths with them",
        {"3c03f4707560e990": "0.24.0", "5b5db2850b6e4f78": "0.27.0", "1d36c8c54807ba47": "0.31.0"},
    ),
    Contract(
        "vllm/v1/spec_decode/custom_class_proposer.py",
        "create_custom_proposer",
        "constructs `speculative_config.model` with the `VllmConfig` and asks for nothing but `propose`",
        {"ab42fb2f24cc505f": "0.24.0"},
        parameters=("vllm_config",),
    ),
    Contract(
        "vllm/config/speculative.py",
        "SpeculativeConfig.__post_init__",
        "`method: custom_class` takes a dotted path as `model` and needs no draft model",
        {"1c50927b2193f862": "0.24.0"},
        mention="custom_class",
    ),
    Contract(
        "vllm/config/speculative.py",
        "SpeculativeConfig",
        "the fields that are set and read",
        members=("method", "model", "num_speculative_tokens", "rejection_sample_method"),
    ),
    Contract(
        "vllm/config/vllm.py",
        "VllmConfig",
        "the parts that the proposer reads",
        members=(
            "additional_config",
            "speculative_config",
            "model_config",
            "parallel_config",
            "scheduler_config",
        ),
    ),
    Contract(
        "vllm/config/vllm.py",
        "VllmConfig._get_v2_model_runner_unsupported_features",
        "`custom_class` makes vLLM take the V1 runner, which is the one that is patched (before 0.30 a list of what"
        " V2 can do leaves it out)",
        {
            "019cb0f1790aa6af": "0.30.0",
            "20ebc668d2de386e": "0.31.0",
            "02c8a2f1686f6427": "0.32.0",
            "a7fe1beb0faa0292": "0.33.0",
        },
        mention="custom_class",
        since="0.30.0",
    ),
    Contract(
        "vllm/config/parallel.py",
        "ParallelConfig",
        "what tells the rank whose drafts are used",
        members=("tensor_parallel_size", "rank", "world_size", "distributed_executor_backend"),
    ),
    Contract(
        "vllm/config/model.py",
        "ModelConfig.get_vocab_size",
        "token ids a model has, padding included",
        {"99bfb8226a7ccaa0": "0.24.0"},
    ),
    Contract(
        "vllm/v1/executor/multiproc_executor.py",
        "MultiprocExecutor._get_output_rank",
        "the first rank of the last pipeline stage is the one whose drafts are used",
        {"f354a0c07426ac7c": "0.24.0"},
    ),
    Contract(
        "vllm/plugins/__init__.py",
        "load_general_plugins",
        "calls every entry point of `vllm.general_plugins` in each process",
        {"bc3892a1c544a719": "0.24.0"},
    ),
    Contract(
        "vllm/v1/core/sched/output.py",
        "SchedulerOutput",
        "what was computed in the step, for the budget and for dynamic speculation",
        members=("num_scheduled_tokens", "scheduled_spec_decode_tokens", "scheduled_new_reqs"),
    ),
    Contract(
        "vllm/v1/core/sched/scheduler.py",
        "Scheduler.update_draft_token_ids",
        "drafts are taken as they are, shortened only where a grammar forbids a token",
        {"015f58a89664aa78": "0.24.0", "c3a57cb0296feb08": "0.30.0"},
    ),
    Contract(
        "vllm/v1/core/sched/utils.py",
        "check_stop",
        "what ends a response: end token, stop token ids, the lengths",
        {"7df66aa70ff39139": "0.24.0", "86038cd9d100c307": "0.29.0"},
    ),
    Contract(
        "vllm/sampling_params.py",
        "SamplingParams",
        "what limits and ends a response",
        members=(
            "max_tokens",
            "min_tokens",
            "stop",
            "stop_token_ids",
            "eos_token_id",
            "thinking_token_budget",
            "seed",
        ),
    ),
    Contract(
        "vllm/v1/sample/metadata.py",
        "SamplingMetadata",
        "keyed sampling: what is known of the rows, repeated for each position",
        members=(
            "temperature",
            "top_p",
            "top_k",
            "generators",
            "prompt_token_ids",
            "frequency_penalties",
            "presence_penalties",
            "repetition_penalties",
            "output_token_ids",
            "spec_token_ids",
            "allowed_token_ids_mask",
            "bad_words_token_ids",
            "logprob_token_ids",
            "logitsprocs",
        ),
    ),
    Contract(
        "vllm/v1/sample/sampler.py",
        "Sampler.forward",
        "keyed sampling: samples each row with its generator",
        parameters=("logits", "sampling_metadata"),
    ),
    Contract(
        "vllm/v1/sample/thinking_budget_state.py",
        "ThinkingBudgetStateHolder",
        "tells whether a request of the batch has a thinking budget (vllm.plain_steps)",
        members=("has_tracked_requests",),
    ),
    Contract(
        "vllm/v1/sample/logits_processor/builtin.py",
        "MinTokensLogitsProcessor",
        "exactness and keyed sampling: masks drafted positions by their length",
        members=("apply_with_spec_decode", "is_argmax_invariant"),
    ),
    Contract(
        "vllm/v1/outputs.py",
        "LogprobsTensors",
        "keyed sampling: a row for each entry",
        members=("logprob_token_ids", "logprobs", "selected_token_ranks"),
    ),
    Contract(
        "vllm/v1/spec_decode/metadata.py",
        "SpecDecodeMetadata",
        "keyed sampling: the drafts that are verified",
        members=("draft_token_ids", "num_draft_tokens"),
    ),
    Contract(
        _BATCH,
        "InputBatch.update_async_output_token_ids",
        "keyed sampling: brings the sampled tokens up to date before penalties read them",
    ),
    Contract(
        _SAMPLER,
        "RejectionSampler.forward",
        "logits processors and sampling constraints are applied to the target before a draft is judged",
        {"ae5cb769bbd427b0": "0.24.0", "cade10d0136149ce": "0.33.0"},
    ),
    Contract(
        _SAMPLER,
        "rejection_sample",
        "exactness: without draft probabilities a draft is one-hot; the lossy `synthetic` and, from 0.33, `fly` are off"
        " by default",
        {"0a3e58cc000d0513": "0.24.0", "06dbc31d2040376b": "0.30.0", "61c0efdcece44d6e": "0.33.0"},
    ),
    Contract(
        _SAMPLER,
        "rejection_random_sample_kernel",
        "exactness: draft d is accepted with probability p(d)",
        {"5f48bf14b66a3e69": "0.24.0", "33f959bce4b0e025": "0.25.0"},
    ),
    Contract(
        _SAMPLER,
        "rejection_greedy_sample_kernel",
        "exactness: a draft is accepted where it is the target's argmax",
        {"38b4d475f7864c56": "0.24.0", "941c221558f4ed37": "0.25.0"},
    ),
    Contract(
        _SAMPLER,
        "sample_recovered_tokens_kernel",
        "exactness: after a rejection the token is drawn from p without d",
        {"69338e18fd52053e": "0.24.0"},
    ),
    Contract(
        _SAMPLER,
        "MAX_SPEC_LEN",
        "most draft tokens a request: 128",
        {"bb770e612c4f0e18": "0.24.0"},
    ),
    Contract(
        "vllm/utils/cpu_triton_utils.py",
        "_expand_kernel_impl",
        "the CPU kernel that is broken (issue 55005); a change here may be its repair",
        {"30a197dc3707f042": "0.24.0"},
    ),
    Contract(
        "vllm/v1/engine/async_llm.py",
        "AsyncLLM.generate",
        "verl.rollout_server listens in on it",
        parameters=("prompt", "sampling_params", "request_id"),
    ),
    Contract(
        "vllm/v1/engine/async_llm.py",
        "AsyncLLM.pause_generation",
        "verl.rollout_server tells it what becomes of running requests, as `mode` where it takes that",
        parameters=("mode", "clear_cache"),
    ),
    Contract(
        "vllm/v1/engine/async_llm.py",
        "AsyncLLM.collective_rpc",
        "calls a worker extension's method on every worker",
        {"1e1edb0bf42cb6ff": "0.24.0"},
        parameters=("method",),
    ),
    Contract(
        "vllm/engine/arg_utils.py",
        "EngineArgs",
        "per-request speculation counters; without them the draft servers' are used",
        members=("per_request_spec_decode_metrics",),
        since="0.29.0",
    ),
)
"""Read, called or taken for granted."""

CONTRACTS = PATCHED + RELIED_ON
