"""Where figures come from: the commit, the machine and the command, for every benchmark's JSON."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from redraft._version import __version__


def provenance() -> dict[str, object]:
    """Return commit (None outside a checkout), machine, command and version."""
    return {
        "commit": commit(),
        "machine": machine(),
        "command": shlex.join(["redraft", *sys.argv[1:]]),
        "version": __version__,
    }


def commit() -> str | None:
    """Return the checkout's commit, with "-dirty" when files were changed; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def machine() -> dict[str, object]:
    """Return processor, cores that may be used, memory, kernel and Python."""
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
