"""Where figures come from: the commit, the machine and the command, for every benchmark and the demo."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from redraft._version import __version__


def provenance() -> dict[str, object]:
    """Return commit ("" outside a checkout), machine, command and version."""
    return {
        "commit": commit(),
        "machine": machine(),
        "command": shlex.join(["redraft", *sys.argv[1:]]),
        "version": __version__,
    }


def commit() -> str:
    """Return the commit of the checkout that this code lies in or that it is run in, with "-dirty" when files were
    changed; "" when there is none."""
    for folder in (Path(__file__).parent, Path.cwd()):
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
        )
        if described.returncode == 0:
            return described.stdout.strip()
    return ""


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
