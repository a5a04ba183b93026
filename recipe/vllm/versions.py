"""The vLLM versions whose proposer interface redraft knows: the one place that names them."""

from __future__ import annotations

import ast
import hashlib
import os
import re
from pathlib import Path

from redraft.errors import FailedPrecondition, NotFound

TESTED = ("0.24", "0.25", "0.26", "0.27", "0.28", "0.29", "0.30", "0.31", "0.32")
"""Minor series whose proposer interface is the one that redraft was written against; 0.32.0 is what the tests
run. A patch release keeps its series' interface."""

OVERRIDE = "REDRAFT_ALLOW_UNTESTED_VLLM"
"""Environment variable: "1" starts with a vLLM that is not in `TESTED`, at the user's own risk."""


def check_version(version: str) -> None:
    """Refuse a vLLM whose proposer interface redraft does not know.

    Called when the proposer is constructed, not when the plugin is loaded: who has redraft installed without
    using it keeps any vLLM working.

    Args:
        version: `vllm.__version__`, with or without a local suffix ("0.32.0+cpu").

    Raises:
        FailedPrecondition: the version's series is not in `TESTED` and the override is not set.
    """
    series = re.match(r"\d+\.\d+", version)
    if (series and series.group() in TESTED) or os.environ.get(OVERRIDE) == "1":
        return
    raise FailedPrecondition(
        f"vllm {version}: redraft knows {TESTED[0]} to {TESTED[-1]} only, and its proposer reads"
        f" vLLM's internals. Install a tested version (pip install 'vllm~={TESTED[-1]}.0'), or set"
        f" {OVERRIDE}=1 to try this one."
    )


RELIED_ON: dict[tuple[str, str], dict[str, str]] = {
    ("vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner.propose_draft_token_ids"): {
        "e44b96f319426736": "0.24.0"
    },
    ("vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner.take_draft_token_ids"): {
        "c16093bcaca3f827": "0.24.0"
    },
    ("vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner._bookkeeping_sync"): {
        "1d82d9c7dfb0ed2a": "0.24.0",
        "0b3e57d51c495ec6": "0.28.0",
        "3ed5aaf644257e96": "0.31.0",
    },
    ("vllm/v1/worker/gpu_input_batch.py", "CachedRequestState"): {
        "913fe969c5adeffa": "0.24.0",
        "1c7a3fe1f3bfea68": "0.30.0",
    },
    ("vllm/v1/spec_decode/custom_class_proposer.py", "create_custom_proposer"): {
        "cc1114aaad1d92dc": "0.24.0"
    },
    ("vllm/v1/core/sched/utils.py", "check_stop"): {
        "fae87391c5953b99": "0.24.0",
        "da923c75ab21853b": "0.29.0",
    },
    ("vllm/v1/executor/multiproc_executor.py", "MultiprocExecutor._get_output_rank"): {
        "2844b1ac4da3048d": "0.24.0"
    },
    ("vllm/v1/sample/rejection_sampler.py", "expand_batch_to_tokens"): {
        "4a72e2584485d3ec": "0.24.0",
        "b7eb18afe98e09e3": "0.30.0",
        "b937d69dd008b317": "0.31.0",
    },
    ("vllm/utils/cpu_triton_utils.py", "_expand_kernel_impl"): {"cb72d4d389c5be6d": "0.24.0"},
}
"""What redraft patches or takes for granted in vLLM's source: (file, definition) -> the fingerprints that were
read and found to do what redraft relies on -> the first version that has it. Patched are
`propose_draft_token_ids` and, on CPUs, `expand_batch_to_tokens`."""


def fingerprint(path: Path, name: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a definition's source text, signature included.

    Reads the file and imports nothing, so it works on an unpacked wheel of any version.

    Args:
        path: a Python source file.
        name: "function", or "Class.method".

    Raises:
        NotFound: the file has no such definition.
    """
    source = path.read_text()
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        found = [child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part]
        if not found:
            raise NotFound(f"{name}: {path} does not define it")
        node = found[-1]
    return hashlib.sha256((ast.get_source_segment(source, node) or "").encode()).hexdigest()[:16]
