"""Ends background work before Python ends: a thread that is in the core at that moment takes the process down."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from typing import Protocol, TypeVar


class Closable(Protocol):
    """Something with threads of its own."""

    def close(self) -> None:
        """End them; called a second time it does nothing."""


T = TypeVar("T", bound=Closable)

_open: weakref.WeakSet[Closable] = weakref.WeakSet()


def close_at_exit(thing: T) -> T:
    """Have `thing` closed when Python ends, if it still exists then; return it.

    Processes that are ended by a signal, or by `os._exit` as multiprocessing's are, do not get that far, and need not:
    there nothing is taken down in an orderly way that a thread could disturb.
    """
    _open.add(thing)
    return thing


@atexit.register
def _close_all() -> None:
    for thing in list(_open):
        with contextlib.suppress(Exception):  # the others are to be closed too
            thing.close()
