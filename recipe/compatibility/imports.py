"""What the recipe imports of vLLM and verl, found in the recipe's own source, so that no list can be forgotten."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from redraft.recipe.compatibility import source
from redraft.recipe.compatibility.contracts import MISSING, SAME, Standing

RECIPE = Path(__file__).parents[1]


@dataclass(frozen=True, order=True)
class Import:
    """`from module import name`, or `import module` (then `name` is empty)."""

    module: str
    name: str
    used_in: str
    """File of the recipe, the first of several."""

    @property
    def label(self) -> str:
        """The name for tables."""
        return f"{self.module}.{self.name}" if self.name else self.module

    @property
    def file(self) -> str:
        """Where the module is in a wheel, unless it is a package."""
        return self.module.replace(".", "/") + ".py"


def imports(product: str, folder: Path = RECIPE) -> list[Import]:
    """Return everything that the files in `folder` import of the package `product`, sorted, each once.

    Args:
        product: "vllm" or "verl".
        folder: searched through, subfolders included.
    """
    found: dict[tuple[str, str], Import] = {}
    for path in sorted(folder.rglob("*.py")):
        for module, name in _imported(ast.parse(path.read_text())):
            if module.split(".")[0] == product:
                found.setdefault((module, name), Import(module, name, path.relative_to(folder).as_posix()))
    return sorted(found.values())


def stand(wanted: Import, read: Callable[[str], str | None]) -> Standing:
    """Tell whether a version still has what is imported; `read` as for `contracts.stand`."""
    if not _modules(wanted.module, read):
        return Standing(MISSING, f"no module {wanted.module}")
    if not wanted.name or _has(wanted.module, wanted.name, read, set()):
        return Standing(SAME)
    return Standing(MISSING, f"{wanted.module} has no {wanted.name}")


def _has(module: str, name: str, read: Callable[[str], str | None], seen: set[str]) -> bool:
    """Tell whether a module has a name: defined, imported, loaded lazily by its name, or a module below it."""
    if module in seen:
        return False
    seen.add(module)
    for text, package in _modules(module, read):
        if name in source.exports(text) | source.string_constants(text):
            return True
        if any(_has(other, name, read, seen) for other in source.stars(text, package)):
            return True
    return bool(_modules(f"{module}.{name}", read))


def _modules(module: str, read: Callable[[str], str | None]) -> list[tuple[str, str]]:
    """Return (text, the package that it is in or is) of a module; empty when there is none."""
    path = module.replace(".", "/")
    found = [(read(path + ".py"), module.rpartition(".")[0]), (read(path + "/__init__.py"), module)]
    return [(text, package) for text, package in found if text is not None]


def overridden(folder: Path = RECIPE / "verl") -> dict[str, str]:
    """Return each method that a class in `folder` overrides and calls (`super().name(...)`) -> the file that does."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Call)
                and isinstance(node.value.func, ast.Name)
                and node.value.func.id == "super"
            ):
                found.setdefault(node.attr, path.name)
    return found


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
