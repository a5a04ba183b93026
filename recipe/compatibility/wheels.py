"""Source of released versions, from their wheels: downloaded by pip, read from the zip, never imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from redraft.errors import NotFound

Reader = Callable[[str], "str | None"]
"""Path in the package -> text of the file, None when there is none."""

_PLATFORM = ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.12", "--implementation", "cp")
"""The wheels that are looked at are the same wherever the check runs."""


def cached(distribution: str, version: str, folder: Path) -> Path:
    """Return where `fetch` keeps the Python files of a version."""
    return folder / f"{distribution}-{version}.zip"


def fetch(distribution: str, version: str, folder: Path, progress: Callable[[int], None]) -> Path:
    """Return a zip of a version's Python files, downloading its wheel if it isn't there yet.

    The wheel itself is not kept: its binaries are most of it.

    Args:
        distribution: name on the package index.
        version: exact.
        folder: where the zips are kept.
        progress: told the bytes on the disk so far, a few times a second while downloading.

    Raises:
        NotFound: the index has no such wheel, or can't be reached; the message is pip's last line.
    """
    kept = cached(distribution, version, folder)
    if kept.exists():
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as name:
        temporary = Path(name)
        _download(f"{distribution}=={version}", temporary, progress)
        wheels = list(temporary.glob("*.whl"))
        if not wheels:
            raise NotFound(f"{distribution} {version}: pip brought no wheel")
        part = temporary / "part.zip"
        with zipfile.ZipFile(wheels[0]) as wheel, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as small:
            for entry in wheel.namelist():
                if entry.endswith(".py"):
                    small.writestr(entry, wheel.read(entry))
        part.replace(kept)
    return kept


def _download(requirement: str, folder: Path, progress: Callable[[int], None]) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]
    command += ["--no-deps", "--only-binary", ":all:", *_PLATFORM, "--dest", str(folder), requirement]
    environment = {**os.environ, "TMPDIR": str(folder)}  # so that what has arrived can be counted
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as pip:
        while True:
            try:
                _, said = pip.communicate(timeout=0.3)
                break
            except subprocess.TimeoutExpired:
                progress(_size(folder))
    if pip.returncode:
        lines = [line for line in said.splitlines() if line.startswith("ERROR")] or ["ERROR: pip failed"]
        raise NotFound(f"{requirement}: {lines[-1].removeprefix('ERROR: ')}")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # pip moved it meanwhile
            continue
    return total


def reader(path: Path) -> Reader:
    """Return a function that reads files of the zip at `path`."""
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}

    def read(name: str) -> str | None:
        return texts[name].decode() if name in texts else None

    return read


def installed_reader(package: str) -> Reader | None:
    """Return a function that reads the files of the installed `package`, None when it is not; imports nothing."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent.parent

    def read(name: str) -> str | None:
        path = root / name
        return path.read_text() if path.is_file() else None

    return read
