"""Fingerprints of definitions in Python source that is never imported.

A fingerprint is of the syntax tree: comments, docstrings, annotations and layout don't count, so that only a change
that can matter asks to be read. The tree is written out by hand instead of by `ast.dump`, whose output differs
between versions of Python.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache

from redraft.errors import NotFound

_IGNORED = frozenset({"annotation", "returns", "type_comment", "type_params", "kind", "ctx"})
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def find(source: str, name: str) -> ast.AST:
    """Return the definition called `name` in `source`.

    Args:
        source: text of a Python file.
        name: "function", "Class", "Class.method" or a variable assigned at the top or in the class; where several
            have the name, the last one. Those under `if` and `try` are found too.

    Raises:
        NotFound: `source` defines no such name.
    """
    node: ast.AST = _parsed(source)
    for part in name.split("."):
        found = [child for child in _statements(node) if part in _names(child)]
        if not found:
            raise NotFound(f"{name}: is not defined")
        node = found[-1]
    return node


def fingerprint(node: ast.AST, mention: str | None = None) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a definition, signature included.

    Args:
        node: from `find`.
        mention: hash only the parts that deal with this string: the `if` branches whose condition has it as a
            constant. For methods that grow with every version while one branch matters.

    Raises:
        NotFound: no branch mentions `mention`.
    """
    text = "".join(_written(part) for part in (_branches(node, mention) if mention else [node]))
    if not text:
        raise NotFound(f"{mention}: no branch mentions it")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parameters(node: ast.AST) -> set[str]:
    """Return the names of a function's parameters, and "**" if it takes any keyword; empty for what is no function."""
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return set()
    arguments = node.args
    names = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    return names | ({"**"} if arguments.kwarg else set())


def members(node: ast.AST) -> set[str]:
    """Return the names that a class has: fields, methods, and what its methods assign to `self`."""
    names = {name for child in _statements(node) for name in _names(child)}
    for child in ast.walk(node):
        if (
            isinstance(child, ast.Attribute)
            and isinstance(child.ctx, ast.Store)
            and isinstance(child.value, ast.Name)
            and child.value.id == "self"
        ):
            names.add(child.attr)
    return names


def exports(source: str) -> set[str]:
    """Return the names that a module has: defined, assigned or imported; "*" for what it takes from elsewhere."""
    return {name for child in _statements(_parsed(source)) for name in _names(child)}


def stars(source: str, package: str) -> list[str]:
    """Return the modules whose every name a module takes (`from module import *`).

    Args:
        source: text of the module.
        package: dotted name of the package that the module is in, or is.
    """
    return [
        ".".join(filter(None, [*package.split(".")[: _depth(package, node.level)], node.module]))
        for node in _statements(_parsed(source))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]


def string_constants(source: str) -> set[str]:
    """Return every string constant of a module; modules that import lazily hold their names as strings."""
    return {
        node.value
        for node in ast.walk(_parsed(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@lru_cache(maxsize=256)
def _parsed(source: str) -> ast.Module:
    """Return the tree, which nobody changes: some of the files are large and asked about often."""
    return ast.parse(source)


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a body, those of its `if`, `try` and `with` included, but not of functions in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.excepthandler):
            yield from _statements(child)
        elif isinstance(child, ast.stmt):
            yield child
            if not isinstance(child, _DEFINITIONS):
                yield from _statements(child)


def _depth(package: str, level: int) -> int:
    """Return how many parts of `package` a relative import of `level` dots starts from; 0 for an absolute one."""
    return package.count(".") + 2 - level if level else 0


def _names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, _DEFINITIONS):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [alias.asname or alias.name.split(".")[0] for alias in statement.names]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _branches(node: ast.AST, mention: str) -> Iterator[ast.AST]:
    for child in ast.walk(node):
        if isinstance(child, (ast.If, ast.IfExp)):
            constants = (part.value for part in ast.walk(child.test) if isinstance(part, ast.Constant))
            if mention in constants:
                yield child.test
                yield from child.body if isinstance(child, ast.If) else [child.body]


def _written(node: ast.AST) -> str:
    """Return the tree as text that is the same in every version of Python."""
    parts = []
    for name, value in ast.iter_fields(node):
        if name in _IGNORED or value is None or value == []:
            continue
        if name == "body" and isinstance(node, (*_DEFINITIONS, ast.Module)) and _is_docstring(value[0]):
            value = value[1:]
        parts.append(f"{name}={_value(value)}")
    return f"{type(node).__name__}({','.join(parts)})"


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    return _written(value) if isinstance(value, ast.AST) else repr(value)


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
