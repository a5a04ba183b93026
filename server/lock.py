"""One process at a time on a data directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from redraft.errors import AlreadyExists, FailedPrecondition


class DirectoryLock:
    """Holds a data directory until it is closed or the process ends, however it ends.

    Args:
        directory: created when it does not exist, readable by its owner only.

    Raises:
        AlreadyExists: another process holds it.
        FailedPrecondition: the directory cannot be created or written.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FailedPrecondition(f"data_directory: cannot use {directory}: {error.strerror}") from None
        try:
            # flock belongs to the open file: the kernel drops it when the process dies, so no stale locks.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise AlreadyExists(
                f"data_directory: {directory} is in use by another redraft process (pid {holder}); "
                "stop it or choose another directory with --data"
            ) from None
        with contextlib.suppress(OSError):  # the pid is only for people; a full disk must not stop a server
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go of the directory."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
