"""Keeps a list of server addresses up to date while things run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from redraft.client.rendezvous import check_addresses
from redraft.errors import RedraftError

_LOG = logging.getLogger("redraft.client")


def read_addresses(path: Path) -> list[str]:
    """Return the addresses in a file: host:port, one or more a line, separated by commas or blanks; # begins a comment.

    Raises:
        InvalidArgument: there is none, or one is not host:port.
        OSError: the file cannot be read.
    """
    lines = [line.split("#", 1)[0] for line in path.read_text().splitlines()]
    return check_addresses(" ".join(lines).replace(",", " ").split())


class AddressWatch:
    """Looks for another list of addresses now and then, on a thread of its own, and hands it on.

    Args:
        find: returns the addresses as they are now; what it raises is logged once, and the old ones stay.
        use: are given every list that differs from the one before (`Publisher.set_addresses` and its like).
        known: the addresses that are in use.
        interval: how often to look, in seconds.
    """

    def __init__(
        self,
        find: Callable[[], Sequence[str]],
        *use: Callable[[Sequence[str]], None],
        known: Sequence[str] = (),
        interval: float = 5.0,
    ) -> None:
        self._find, self._use, self._known = find, use, list(known)
        self._interval = interval
        self._stop = threading.Event()
        self._said = ""
        self._thread = threading.Thread(target=self._work, name="redraft-addresses", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join(1.0)

    def _work(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                found = list(self._find())
                if found and set(found) != set(self._known):
                    for use in self._use:
                        use(found)
                    _LOG.info("redraft: draft servers are now %s", ", ".join(found))
                    self._known = found
                self._said = ""
            except Exception as error:  # whatever is wrong with the list, the old one goes on serving
                text = str(error) if isinstance(error, (RedraftError, OSError)) else repr(error)
                if text != self._said:
                    _LOG.warning("redraft: keeping the draft servers as they are: %s", text)
                self._said = text
