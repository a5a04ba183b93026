"""What a drafter has learned from accept outcomes, kept in a file from run to run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from redraft._core import Drafter
from redraft.errors import InvalidArgument


def save_calibration(drafter: Drafter, path: str | os.PathLike[str]) -> None:
    """Write what `drafter` has learned; a reader sees the old file or the new one, never a part.

    Args:
        drafter: may be in use by other threads.
        path: file to write or replace, in NumPy's format: float32, shape (n,).

    Raises:
        OSError: the folder is missing, full or not writable; the old file stays.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, drafter.calibration(), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_calibration(drafter: Drafter, path: str | os.PathLike[str]) -> bool:
    """Let `drafter` go on from what `save_calibration` wrote; False when there is no such file.

    Raises:
        InvalidArgument: the file is damaged, of another version or of another policy; `drafter` is as it was.
        OSError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            state = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return False
    except OSError:
        raise
    except Exception as error:  # numpy parses the header with a tokenizer and more: damage comes as anything
        raise InvalidArgument(
            f"calibration: {os.fspath(path)} is damaged ({error}); start without it"
        ) from None
    if not isinstance(state, np.ndarray) or state.dtype != np.float32:
        raise InvalidArgument(f"calibration: {os.fspath(path)} holds no float32 array; start without it")
    drafter.restore(state)
    return True
