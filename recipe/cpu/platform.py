"""verl's platform interface for the CPU; importing this module registers it under the name "cpu".

verl loads it by VERL_USE_EXTERNAL_MODULES and picks it by VERL_PLATFORM=cpu; see `environment`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

_GIB = 1 << 30


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Stand for a call that means nothing on a CPU."""


def _zero(*_args: Any, **_kwargs: Any) -> int:
    """Stand for memory figures of a device that there is none of."""
    return 0


class CpuDevice(types.ModuleType):
    """torch.cpu, with those members of torch.cuda that verl calls without asking first."""

    empty_cache = ipc_collect = set_device = synchronize = reset_peak_memory_stats = staticmethod(_nothing)
    memory_allocated = memory_reserved = staticmethod(_zero)
    max_memory_allocated = max_memory_reserved = staticmethod(_zero)
    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(torch.cpu, name)

    def __eq__(self, other: object) -> bool:
        # verl/utils/profiler/performance.py asks `device == torch.cpu`
        return other is self or other is torch.cpu

    __hash__ = types.ModuleType.__hash__

    @staticmethod
    def is_available() -> bool:
        """Return False: verl uses it only to guard calls into CUDA."""
        return False

    @staticmethod
    def mem_get_info(*_args: Any) -> tuple[int, int]:
        """Return (free, total) bytes; verl only logs them."""
        return 8 * _GIB, 16 * _GIB

    @staticmethod
    def get_device_name(*_args: Any) -> str:
        """Return the device's name, which verl looks up peak flops by."""
        return "cpu"


DEVICE = CpuDevice("redraft_cpu_device")


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """One CPU device; Ray's "GPU" resource is a mere number that says where workers go."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = DEVICE

    def is_available(self) -> bool:
        """Return True."""
        return True

    def current_device(self) -> Any:
        """Return the device's name: verl hands it to `.to(...)`, where a number would mean an accelerator."""
        return "cpu"

    def device_count(self) -> int:
        """Return 1."""
        return 1

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        """Return that there is no compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """Return torch.distributed's backend for CPUs."""
        return "gloo"

    def manual_seed(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """Wrap nothing."""
        yield

    def visible_devices_envvar(self) -> str:
        """Return the variable that Ray sets for its resource "GPU"."""
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        """Return the resource that verl's placement groups ask for."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Return the variable that keeps Ray from hiding devices."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """Return False, so that weights go through shared memory."""
        return False

    set_device = synchronize = set_allocator_settings = empty_cache = staticmethod(_nothing)
    profiler_start = profiler_stop = cudart = staticmethod(_nothing)


def accept_one_backend() -> None:
    """Have torch.distributed take "cpu:gloo,cpu:gloo" for "cpu:gloo"; doing it twice is harmless.

    Trigger: verl builds the backend as f"cpu:gloo,{device}:{backend}", and torch refuses to name a device twice.
    Safe, as the two halves are the same text.
    """
    original = torch.distributed.init_process_group
    if getattr(original, "redraft_accepts_one_backend", False):
        return

    @functools.wraps(original)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return original("cpu:gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    init_process_group.redraft_accepts_one_backend = True  # type: ignore[attr-defined]
    torch.distributed.init_process_group = init_process_group


accept_one_backend()
