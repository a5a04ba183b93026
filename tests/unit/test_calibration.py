"""What a drafter learned is saved, and another one goes on from it."""

from pathlib import Path

import numpy as np
import pytest

from redraft import Drafter, FrozenIndex, LiveIndex
from redraft.calibration import load_calibration, save_calibration
from redraft.errors import InvalidArgument

NOTHING = np.empty(0, np.int32)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def ask(drafter: Drafter, answer: int) -> float:
    """Draft one token after 1, which history follows up with 2, and tell what came; returns 2's probability."""
    history = FrozenIndex.build(ids(1, 2, 3, 1, 2, 3), np.array([0, 3, 6]))
    request = drafter.open(LiveIndex(NOTHING), ids(1), history=history)
    batch = drafter.step(ids(request), NOTHING, ids(0, 0), ids(1))
    drafter.step(ids(request), ids(answer), ids(0, 1), ids(0))
    drafter.close(request)
    return float(batch.probabilities[0])


@pytest.mark.parametrize("policy", ["blend", "longest"])
def test_a_drafter_goes_on_from_what_another_learned(policy: str, tmp_path: Path) -> None:
    taught = Drafter(min_survival=0.0, policy=policy)
    first = ask(taught, 9)
    for _ in range(20):
        ask(taught, 9)
    save_calibration(taught, tmp_path / "calibration.npy")
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.npy"]
    other = Drafter(min_survival=0.0, policy=policy)
    assert load_calibration(other, tmp_path / "calibration.npy")
    np.testing.assert_array_equal(other.calibration(), taught.calibration())
    assert ask(other, 2) < first


def test_without_a_file_a_drafter_starts_anew(tmp_path: Path) -> None:
    drafter = Drafter(policy="blend")
    assert not load_calibration(drafter, tmp_path / "none.npy")


def test_a_file_that_is_no_calibration_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    drafter = Drafter(policy="blend")
    before = drafter.calibration()
    path = tmp_path / "calibration.npy"
    save_calibration(Drafter(policy="longest"), path)
    with pytest.raises(InvalidArgument, match=r"^calibration: "):
        load_calibration(drafter, path)
    save_calibration(drafter, path)
    whole = path.read_bytes()
    header = whole.replace(b"(", b"[", 1)
    for damaged in (b"", b"no array", whole[: len(whole) // 2], header, b"PK\x03\x04" + whole[4:]):
        path.write_bytes(damaged)
        with pytest.raises(InvalidArgument, match=r"^calibration: "):
            load_calibration(drafter, path)
    np.save(path, np.full_like(before, np.nan))
    with pytest.raises(InvalidArgument, match=r"^calibration: "):
        load_calibration(drafter, path)
    np.testing.assert_array_equal(drafter.calibration(), before)


def test_a_folder_that_is_missing_is_said_so_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_calibration(Drafter(), tmp_path / "missing" / "calibration.npy")
    assert list(tmp_path.iterdir()) == []
