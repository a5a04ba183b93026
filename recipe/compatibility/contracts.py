"""What a contract with someone else's source is, and how a wheel's source stands to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from redraft.errors import NotFound
from redraft.recipe.compatibility import source

SAME, KNOWN, UNREAD, SIGNATURE, MISSING, NO_WHEEL, NOT_NEEDED = (
    "same",
    "read",
    "source differs",
    "signature differs",
    "missing",
    "no wheel",
    "not needed",
)
GOOD = frozenset({SAME, KNOWN, NOT_NEEDED})
"""The states that keep what redraft needs."""


@dataclass(frozen=True)
class Contract:
    """One definition of vLLM or verl that redraft patches, overrides, calls or relies on."""

    file: str
    """Path in the wheel."""
    name: str
    """"function", "Class", "Class.method" or a variable."""
    needs: str
    """What redraft takes for granted of it."""
    accepted: Mapping[str, str] = field(default_factory=dict)
    """Fingerprint -> the version that first had it. All were read and keep `needs`; the last is the tested one's.
    Empty: the source may change, `members` or the parameters alone count."""
    mention: str | None = None
    """Only the branches that have this string in their condition count (`source.fingerprint`)."""
    members: tuple[str, ...] = ()
    """Names that the class must have."""
    parameters: tuple[str, ...] = ()
    """Parameters that the function must take; for a function that is called or overridden."""
    since: str = ""
    """First version that has it; redraft does without in older ones."""

    @property
    def label(self) -> str:
        """The name for tables; several contracts may be about one definition."""
        return f"{self.name}[{self.mention}]" if self.mention else self.name


@dataclass(frozen=True)
class Standing:
    """How one version stands to one contract."""

    state: str
    detail: str = ""
    """Fingerprint or the names that are missing: what to look at, or to add once it was read."""

    @property
    def good(self) -> bool:
        """Whether redraft may rely on it."""
        return self.state in GOOD


def stand(contract: Contract, read: Callable[[str], str | None], older: bool = False) -> Standing:
    """Compare one contract with the source of one version.

    Args:
        contract: what is needed.
        read: path in the wheel -> its text, None when the wheel has no such file.
        older: the version is older than `contract.since`.

    Returns:
        The standing; `SIGNATURE` names missing parameters, `UNREAD` the fingerprint that nobody has read.
    """
    text = read(contract.file)
    try:
        if text is None:
            raise NotFound(f"{contract.file}: is not in the wheel")
        node = source.find(text, contract.name)
        fingerprint = source.fingerprint(node, contract.mention)
    except NotFound as error:
        return Standing(NOT_NEEDED) if older else Standing(MISSING, str(error))
    if lost := [name for name in contract.members if name not in source.members(node)]:
        return Standing(NOT_NEEDED) if older else Standing(MISSING, ", ".join(lost))
    taken = source.parameters(node)
    if lost := [name for name in contract.parameters if name not in taken and "**" not in taken]:
        return Standing(SIGNATURE, f"takes no {', '.join(lost)}")
    if not contract.accepted:
        return Standing(SAME)
    if fingerprint not in contract.accepted:
        return Standing(UNREAD, fingerprint)
    newest = list(contract.accepted)[-1]
    return Standing(SAME if fingerprint == newest else KNOWN, fingerprint)
