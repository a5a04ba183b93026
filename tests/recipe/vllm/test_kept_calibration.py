"""What was learned of drafts is kept in a folder and gone on from when an engine starts again."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redraft import Drafter, FrozenIndex, LiveIndex
from redraft.recipe.vllm.calibration import SAVE_SECONDS, KeptCalibration, calibration_path

LOGGER = logging.getLogger("redraft.test")


def teach(drafter: Drafter) -> None:
    """Have promises come out wrong."""
    history = FrozenIndex.build(np.asarray([1, 2, 3, 4], np.int32), np.asarray([0, 4]))
    for _ in range(10):
        request = drafter.open(LiveIndex(np.empty(0, np.int32)), history=history)
        one = np.asarray([request], np.int32)
        drafter.step(one, np.asarray([1, 2, 3], np.int32), np.asarray([0, 3], np.int32), one * 0 + 1)
        drafter.step(one, np.asarray([9], np.int32), np.asarray([0, 1], np.int32), one * 0)
        drafter.close(request)


SCRIPT = """
import logging, multiprocessing
import numpy as np
from redraft import Drafter
from redraft.recipe.vllm.calibration import KeptCalibration

def work():
    global kept  # it is there to the end
    drafter = Drafter()
    kept = KeptCalibration("kept", "run", drafter, logging.getLogger())
    drafter.restore(drafter.calibration() + np.float32(1))

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
"""


def text(number: int) -> list[int]:
    return [(7 * number + i) % 50 + 1 for i in range(20)]


def run_some(make_runner: Callable[..., Any], folder: Path) -> np.ndarray:
    """Run requests whose drafts fail in part; returns what was learned."""
    runner = make_runner(calibration_dir=str(folder), run="org/run 1")
    for number in range(4):
        runner.add("a", [60, 61])
        for i, token in enumerate(text(0)):
            runner.step(a=[token if i % 4 else token + 50 + number])
        runner.finish("a")
    runner.proposer.close()
    return np.asarray(runner.proposer._drafter.calibration())


def test_a_proposer_goes_on_from_what_the_one_before_learned(make_runner, make_proposer, tmp_path: Path):
    learned = run_some(make_runner, tmp_path / "kept")
    assert not np.array_equal(learned, Drafter(policy="blend").calibration())
    again = make_proposer(calibration_dir=str(tmp_path / "kept"), run="org/run 1")
    np.testing.assert_array_equal(again._drafter.calibration(), learned)
    other = make_proposer(calibration_dir=str(tmp_path / "kept"), run="org/run 2")
    np.testing.assert_array_equal(other._drafter.calibration(), Drafter(policy="blend").calibration())


def test_a_damaged_file_is_a_warning_and_is_replaced(make_runner, tmp_path: Path, caplog):
    path = calibration_path(str(tmp_path), "org/run 1")
    path.write_bytes(b"\x93NUMPY damaged")
    with caplog.at_level(logging.WARNING, logger="vllm.redraft"):
        learned = run_some(make_runner, tmp_path)
    assert "calibration starts anew" in caplog.text
    np.testing.assert_array_equal(np.load(path), learned)


def test_a_folder_that_cannot_be_written_is_a_warning_and_stops_nothing(tmp_path: Path, caplog):
    (tmp_path / "file").write_text("no folder")
    drafter = Drafter(min_survival=0.0)
    with caplog.at_level(logging.WARNING):
        kept = KeptCalibration(str(tmp_path / "file" / "folder"), "run", drafter, LOGGER)
        teach(drafter)
        kept.close()
    assert "starts anew" in caplog.text
    assert "can't be kept" in caplog.text


def test_it_is_written_now_and_then_where_something_was_learned(tmp_path: Path):
    now = [0.0]
    drafter = Drafter(min_survival=0.0)
    kept = KeptCalibration(str(tmp_path), "run", drafter, LOGGER, lambda: now[0])
    path = calibration_path(str(tmp_path), "run")
    now[0] = SAVE_SECONDS
    kept.keep()
    assert not path.exists()
    teach(drafter)
    kept.keep()
    assert not path.exists()
    now[0] = 2 * SAVE_SECONDS
    kept.keep()
    np.testing.assert_array_equal(np.load(path), drafter.calibration())


def test_it_is_written_when_a_child_process_ends(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True)
    learned = np.load(calibration_path(str(tmp_path / "kept"), "run"))
    assert not np.array_equal(learned, Drafter().calibration())


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    drafter = Drafter(min_survival=0.0)
    kept = KeptCalibration("", "run", drafter, LOGGER)
    teach(drafter)
    kept.keep()
    kept.close()
    assert list(tmp_path.iterdir()) == []


def test_names_of_runs_become_names_of_files():
    names = {calibration_path("f", run).name for run in ("a/b", "a_b", "../x", "é" * 200, "a" * 200)}
    assert len(names) == 5
    assert all(len(name) < 120 and "/" not in name and not name.startswith(".") for name in names)
