"""Instructions per request and step, counted by callgrind in the C++ benchmark program."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from redraft.benchmarks.groups import Int32Array, Trace
from redraft.benchmarks.index import SIBLINGS, STEP_REQUESTS, split
from redraft.errors import FailedPrecondition

STEPS = 30


def write_trace(trace: Trace, path: Path) -> None:
    """Write groups as benchmarks/step.cc reads them."""
    numbers: list[int] = []

    def put(tokens: Int32Array) -> None:
        numbers.append(len(tokens))
        numbers.extend(tokens.tolist())

    groups = trace.groups[: STEP_REQUESTS // SIBLINGS]
    numbers.append(len(groups))
    for group in groups:
        history, live = split(group)
        put(group.prompt)
        for responses in (history or group.responses, live or group.responses):
            numbers.append(len(responses))
            for response in responses:
                put(response)
    np.array(numbers, dtype="<i4").tofile(path)


def count(trace: Trace) -> float:
    """Return the mean number of instructions that one request takes in one step, appends included.

    Raises:
        FailedPrecondition: valgrind, CMake or the sources are not there, or the build fails.
    """
    source = Path(__file__).resolve().parent.parent
    if not (source / "benchmarks" / "step.cc").is_file() or not (source / "CMakeLists.txt").is_file():
        raise FailedPrecondition("callgrind: needs a source checkout")
    for tool in ("valgrind", "cmake"):
        if shutil.which(tool) is None:
            raise FailedPrecondition(f"callgrind: needs {tool}; install it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_trace(trace, folder / "trace")
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DREDRAFT_BINDINGS=OFF", "-DREDRAFT_BENCHMARKS=ON"]
        run(["cmake", "-S", str(source), "-B", str(folder / "build"), *options])
        run(["cmake", "--build", str(folder / "build"), "--target", "redraft_step"])
        program = [str(folder / "build" / "redraft_step"), str(folder / "trace"), str(STEPS)]
        requests = int(json.loads(run(program))["requests"])
        tool_options = [
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=redraft::Drafter::step*",
        ]
        output = run(["valgrind", *tool_options, f"--callgrind-out-file={folder / 'out'}", *program])
        found = re.search(r"Collected : (\d+)", output)
        if found is None:
            raise FailedPrecondition(f"callgrind: no count in its output: {output[-300:]}")
        return int(found[1]) / requests / STEPS


def run(command: list[str]) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise FailedPrecondition(f"callgrind: {command[0]} failed: {done.stderr[-500:]}")
    return done.stdout + done.stderr
