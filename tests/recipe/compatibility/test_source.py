"""Fingerprints change with what can matter, and with nothing else."""

from __future__ import annotations

import pytest

from redraft.errors import NotFound
from redraft.recipe.compatibility import source

TEXT = '''
import other

class A:
    field: int = 1

    def f(self, x: int, *, y=2):
        """Say something."""
        self.made = x  # a comment
        if self.method == "mine":
            return 1
        elif self.method == "theirs":
            return 2
        return y

try:
    def g(): return 1
except ImportError:
    g = None
'''


def fingerprint(text: str, name: str = "A.f", mention: str | None = None) -> str:
    return source.fingerprint(source.find(text, name), mention)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Say something.", "Say something else."),
        ("  # a comment", ""),
        ("x: int,", "x,"),
        ("self.made = x", "self.made = (\n            x)"),
        ("def g(): return 1", "def g(): return 2"),
    ],
)
def test_what_cannot_matter_keeps_the_fingerprint(old, new):
    assert old in TEXT
    assert fingerprint(TEXT.replace(old, new)) == fingerprint(TEXT)


@pytest.mark.parametrize(
    ("old", "new"),
    [("y=2", "y=3"), ("x: int,", "z: int,"), ("self.made = x", "self.made = y"), ("return 2", "return 3")],
)
def test_a_change_of_the_code_changes_the_fingerprint(old, new):
    assert old in TEXT
    assert fingerprint(TEXT.replace(old, new)) != fingerprint(TEXT)


def test_a_branch_alone_can_be_watched():
    mine = fingerprint(TEXT, mention="mine")
    assert fingerprint(TEXT.replace("return 2", "return 3"), mention="mine") == mine
    assert (
        fingerprint(TEXT.replace("return 1\n        elif", "return 9\n        elif"), mention="mine") != mine
    )
    with pytest.raises(NotFound, match=r"^nobody: "):
        fingerprint(TEXT, mention="nobody")


def test_fingerprints_are_the_same_in_every_version_of_python():
    """A literal, as those in the contracts are: made by another interpreter, or before a change of the code here."""
    text = "def f(a, *b, c=1, **d):\n    return f'{a!r:>{c}}' if d else [x async for x in b]\n"
    assert fingerprint(text, "f") == "7ee1226000bc6a58"


@pytest.mark.parametrize("name", ["A.g", "B", "A.f.x"])
def test_a_name_that_is_not_defined_is_named(name):
    with pytest.raises(NotFound, match=rf"^{name}: "):
        source.find(TEXT, name)


def test_members_are_fields_methods_and_what_methods_assign():
    assert source.members(source.find(TEXT, "A")) == {"field", "f", "made"}


def test_parameters_tell_whether_any_keyword_is_taken():
    assert source.parameters(source.find(TEXT, "A.f")) == {"self", "x", "y"}
    assert "**" in source.parameters(source.find("def f(a, **b): pass", "f"))


def test_exports_are_what_can_be_imported():
    assert source.exports(TEXT) == {"other", "A", "g"}


def test_stars_resolve_relative_imports():
    text = "from ..near import *\nfrom . import *\nfrom far.away import *\nfrom .one import name\n"
    assert source.stars(text, "a.b.c") == ["a.b.near", "a.b.c", "far.away"]
