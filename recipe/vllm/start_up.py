"""What is settled before a proposer drafts: whether this vLLM is one that redraft knows, whether it is patched, and
which of its ranks drafts."""

from __future__ import annotations

from typing import Any

from redraft.errors import FailedPrecondition
from redraft.recipe.vllm import cpu_sampler, keyed_sampling, patches, plain_steps, versions


def prepare_vllm() -> None:
    """Check the version, and see that the patches are in force where drafts are about to be made and verified.

    Raises:
        FailedPrecondition: an untested vLLM, or a runner that can't be patched.
    """
    import vllm
    from vllm.platforms import current_platform
    from vllm.v1.executor import uniproc_executor
    from vllm.v1.sample import rejection_sampler
    from vllm.v1.worker import gpu_model_runner

    versions.check_version(vllm.__version__)
    patches.hand_over_batch(gpu_model_runner)
    patches.ask_up_to_the_longest_text(gpu_model_runner)
    plain_steps.decode_plainly(gpu_model_runner)
    plain_steps.fetch_no_empty_drafts(uniproc_executor)
    keyed_sampling.sample_by_key(gpu_model_runner)
    if not patches.is_handed_over(gpu_model_runner):
        raise FailedPrecondition(
            f"vllm {vllm.__version__}: GPUModelRunner.propose_draft_token_ids is not where redraft patches"
            f" it; install vllm {versions.TESTED[0]} to {versions.TESTED[-1]}"
        )
    if current_platform.is_cpu():
        cpu_sampler.repair(rejection_sampler)
        cpu_sampler.allow_steps_without_drafts(rejection_sampler)


def is_drafting_rank(parallel_config: Any) -> bool:
    """Tell whether this rank's drafts are the ones that vLLM uses.

    vLLM constructs a proposer on every rank of the last pipeline stage, takes the drafts of that stage's
    first rank, and sends them to all ranks with the next step's schedule. So that one rank drafts, and the
    others return empty rows: what they'd draft is never looked at, and drafting nothing keeps them free of
    threads, fetches and memory. With data parallelism every engine has such a rank of its own.

    Raises:
        FailedPrecondition: an executor in which every rank is its own scheduler, with more than one rank: each
            would follow its own drafts, history arrives at each at another time, and the ranks would hang.
    """
    ranks = parallel_config.tensor_parallel_size * getattr(
        parallel_config, "prefill_context_parallel_size", 1
    )
    if parallel_config.distributed_executor_backend == "external_launcher" and parallel_config.world_size > 1:
        raise FailedPrecondition(
            "distributed_executor_backend: external_launcher schedules on every rank by itself, and ranks"
            " whose drafts differ hang; use mp or ray, or one rank an engine"
        )
    return bool(parallel_config.rank % ranks == 0)
