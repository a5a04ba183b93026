"""Draft servers that come and go: the option `addresses` may name a file, which is followed while the engine runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from redraft.errors import InvalidArgument
from redraft.recipe.vllm.options import FILE_PREFIX, Options


def resolve(options: Options) -> Options:
    """Return the options with the addresses that stand in the file now, if one is named.

    Raises:
        InvalidArgument: the file cannot be read or holds no addresses.
    """
    path = _file(options)
    if path is None:
        return options
    from redraft.client.address_watch import read_addresses

    try:
        return dataclasses.replace(options, addresses=tuple(read_addresses(path)))
    except OSError as error:
        raise InvalidArgument(f"addresses: cannot read {path}: {error.strerror}") from None


class Followed:
    """Tells those who talk to servers when the file says something else.

    Args:
        options: as they were given, not resolved; without a file nothing is followed.
        *users: have a method `set_addresses`.
    """

    def __init__(self, options: Options, *users: Any) -> None:
        path = _file(options)
        self._watch = None
        if path is not None:
            from redraft.client.address_watch import AddressWatch, read_addresses

            self._watch = AddressWatch(
                lambda: read_addresses(path), *(user.set_addresses for user in users), interval=2.0
            )

    def close(self) -> None:
        """Stop following."""
        if self._watch is not None:
            self._watch.close()


def _file(options: Options) -> Path | None:
    first = options.addresses[0] if options.addresses else ""
    return Path(first[len(FILE_PREFIX) :]) if first.startswith(FILE_PREFIX) else None
