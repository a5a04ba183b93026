"""The house's rules that a linter does not know: dependencies point one way, imports stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Package -> the packages of redraft that it may import besides itself.
MAY_IMPORT = {
    "redraft": set(),
    "server": {"redraft"},
    "client": {"redraft"},
    "benchmarks": {"redraft", "server", "client"},
    "recipe": {"redraft", "server", "client", "benchmarks"},
}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".cc", ".h", ".yaml", ".txt", ".sh", ".proto"}
HEAVY = {"torch", "vllm", "verl", "ray", "transformers", "tensordict", "transfer_queue", "hydra", "omegaconf"}


def imported_modules(path: Path) -> set[str]:
    """Return the absolute names that a file imports, at any depth; relative imports stay inside a package."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(module: str) -> str | None:
    """Return which package of MAY_IMPORT an absolute module name belongs to."""
    head, *rest = module.split(".")
    if head != "redraft":
        return None
    return rest[0] if rest and rest[0] in MAY_IMPORT else "redraft"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_dependencies_point_one_way(package: str) -> None:
    files = [p for p in (ROOT / package).rglob("*.py") if not p.name.endswith(("_pb2.py", "_pb2_grpc.py"))]
    assert files
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported_modules(path)
        if (part := part_of(name)) is not None and part not in MAY_IMPORT[package] | {package}
    }
    assert not wrong


@pytest.mark.parametrize("package", sorted(set(MAY_IMPORT) - {"recipe", "benchmarks"}))
def test_only_the_recipe_imports_heavy_libraries(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        heavy = {name for name in imported_modules(path) if name.split(".")[0] in HEAVY}
        # A tokenizer is imported inside the one function that needs it, never with the module.
        assert heavy <= {"transformers.AutoTokenizer"}, path


def test_only_the_bindings_see_pybind11() -> None:
    sources = [p for p in (ROOT / "csrc").iterdir() if p.suffix in {".h", ".cc"}]
    assert sources
    users = {p.name for p in sources if "pybind11" in p.read_text()}
    assert users
    assert all(name.startswith("bindings") for name in users)


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT.parent
    ).stdout


def test_importing_redraft_is_light() -> None:
    heavy = run_python(
        "import sys, redraft; print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'grpc', 'torch', 'vllm', 'verl', 'ray', 'transformers', 'google', 'click'}))"
    )
    assert heavy.strip() == "[]"


def test_importing_the_vllm_plugin_imports_no_vllm() -> None:
    heavy = run_python(
        "import sys, redraft.recipe.vllm.plugin; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'grpc', 'torch', 'vllm'}))"
    )
    assert heavy.strip() == "[]"


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of a developer's machine in a tracked text file."""
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    machine_paths = ["/" + name + "/" for name in ("root", "work", "home")]
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix in TEXT_SUFFIXES:
            text = path.read_text()
            assert not [p for p in machine_paths if p in text], name
