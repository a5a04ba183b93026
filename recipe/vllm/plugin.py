"""vLLM's general plugin: runs in every vLLM process, imports nothing heavy, and changes nothing unless asked.

It only arranges that the runner's module is patched (`patches.py`) when it is imported, which happens in the
processes that run a model. It never checks versions and never raises: a user who has redraft installed and
does not use it must notice nothing. What can be refused is refused when vLLM constructs `RedraftProposer`,
which also applies the patch itself where `VLLM_PLUGINS` left this plugin out.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from redraft.recipe.vllm import patches


def register() -> None:
    """Entry point of `vllm.general_plugins`: patch the runner once its module is imported. Idempotent."""
    on_import(patches.RUNNER_MODULE, _patch_runner)


def _patch_runner(module: ModuleType) -> None:
    patches.hand_over_batch(module)
    if os.environ.get("REDRAFT_KEYED_SAMPLING") == "1":
        from redraft.recipe.vllm import keyed_sampling  # imports torch, as the runner did

        keyed_sampling.sample_by_key(module)


def on_import(name: str, act: Callable[[ModuleType], None]) -> None:
    """Call `act(module)` once `name` has been imported: now, if it already is.

    Args:
        name: absolute module name.
        act: called once, in the importing thread, before the import statement returns.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        act(module)
    elif not any(isinstance(finder, _Notice) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _Notice(name, act))


class _Notice(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the other finders find `name`, and adds `act` to the loading of it."""

    def __init__(self, name: str, act: Callable[[ModuleType], None]) -> None:
        self.name = name
        self._act = act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)  # from here on the import runs as if this finder had never been there
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            self._act(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
