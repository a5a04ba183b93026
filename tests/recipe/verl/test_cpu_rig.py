from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from redraft.recipe.cpu.environment import variables, write_metadata


def test_the_metadata_announces_vllm_and_the_plugin(tmp_path: Path) -> None:
    write_metadata(tmp_path)
    found = {d.metadata["Name"]: d for d in metadata.distributions(path=[str(tmp_path)])}
    (plugin,) = found["redraft-cpu-rig"].entry_points
    assert plugin.group == "vllm.general_plugins"
    assert callable(plugin.load())
    if "vllm" in found:  # only where vLLM is installed under another name
        assert "cpu" in found["vllm"].version


def test_the_environment_yields_to_what_the_user_set() -> None:
    code = (
        "import os; os.environ['OMP_NUM_THREADS'] = '7'\n"
        "from redraft.recipe.cpu.environment import activate\n"
        "activate(); print(os.environ['OMP_NUM_THREADS'], os.environ['VERL_PLATFORM'])\n"
        "folder = os.environ['PYTHONPATH'].split(os.pathsep)[0]; print(os.path.isdir(folder), folder)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    first, second = done.stdout.splitlines()
    assert first == "7 cpu"
    existed, folder = second.split()
    assert existed == "True"
    assert not os.path.exists(folder)


def test_a_gpu_user_meets_none_of_it() -> None:
    code = "import sys, redraft.recipe.main_ppo; print([m for m in sys.modules if m.startswith('redraft.recipe.cpu')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"


def test_every_variable_has_a_value() -> None:
    assert all(isinstance(value, str) and value for value in variables().values())
