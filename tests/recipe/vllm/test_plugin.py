"""The plugin and the patch that it arranges: they change nothing for whoever does not use redraft."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from redraft.recipe.vllm import patches, plugin


@pytest.fixture
def runner_source(tmp_path, monkeypatch):
    """A module `made_up_runner` that can be imported."""
    (tmp_path / "made_up_runner.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_up_runner"
    sys.modules.pop("made_up_runner", None)


def test_the_module_is_handed_over_when_it_is_imported(runner_source):
    seen = []
    finders = list(sys.meta_path)
    plugin.on_import(runner_source, lambda module: seen.append(module.loaded))
    plugin.on_import(runner_source, lambda module: seen.append("twice"))
    assert seen == []
    importlib.import_module(runner_source)
    assert seen == [True]
    assert sys.meta_path == finders
    plugin.on_import(runner_source, lambda module: seen.append("now"))
    assert seen == [True, "now"]


def test_a_module_that_does_not_exist_stays_an_import_error():
    plugin.on_import("no_such_module_anywhere", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        importlib.import_module("no_such_module_anywhere")


def test_registering_imports_nothing_heavy_and_twice_is_once():
    code = (
        "import sys; from redraft.recipe.vllm import plugin; plugin.register(); plugin.register();"
        "print(len([f for f in sys.meta_path if type(f).__name__ == '_Notice']),"
        " sorted({'vllm', 'torch', 'grpc'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "1 []"


def made_up_module() -> ModuleType:
    class GPUModelRunner:
        input_batch, requests = "batch", "requests"

        def propose_draft_token_ids(self, scheduler_output, *args, **kwargs):
            return scheduler_output, args, kwargs

    module = ModuleType("made_up")
    module.GPUModelRunner = GPUModelRunner
    return module


def test_the_patch_hands_the_batch_to_a_proposer_that_wants_it():
    module, seen = made_up_module(), []
    patches.hand_over_batch(module)
    runner = module.GPUModelRunner()
    runner.drafter = SimpleNamespace(before_propose=lambda *args: seen.append(args))
    assert runner.propose_draft_token_ids("output", 1, key=2) == ("output", (1,), {"key": 2})
    assert seen == [("batch", "requests", "output")]


def test_the_patch_leaves_other_proposers_alone_and_is_idempotent():
    module = made_up_module()
    assert not patches.is_handed_over(module)
    patches.hand_over_batch(module)
    once = module.GPUModelRunner.propose_draft_token_ids
    patches.hand_over_batch(module)
    assert module.GPUModelRunner.propose_draft_token_ids is once
    assert patches.is_handed_over(module)
    runner = module.GPUModelRunner()
    runner.drafter = object()
    assert runner.propose_draft_token_ids("output") == ("output", (), {})


def test_a_runner_that_lacks_the_method_is_left_alone():
    module = ModuleType("made_up")
    patches.hand_over_batch(module)
    assert not patches.is_handed_over(module)
