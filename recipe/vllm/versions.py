"""The check that the proposer makes of vLLM's version; the list is `redraft.recipe.compatibility.releases`."""

from __future__ import annotations

from redraft.recipe.compatibility.releases import VLLM

TESTED = VLLM.tested
"""Minor series whose proposer interface is the one that redraft was written against. A patch release keeps its
series' interface."""

OVERRIDE = VLLM.override
"""Environment variable: "1" starts with a vLLM that is not in `TESTED`, at the user's own risk."""


def check_version(version: str) -> None:
    """Refuse a vLLM whose proposer interface redraft does not know.

    Called when the proposer is constructed, not when the plugin is loaded: who has redraft installed without
    using it keeps any vLLM working.

    Args:
        version: `vllm.__version__`, with or without a local suffix ("0.32.0+cpu").

    Raises:
        FailedPrecondition: the version is not listed (or listed as unsupported) and the override is not set.
    """
    VLLM.check(version)
