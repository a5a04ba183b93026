"""Rendezvous hashing: which of several servers owns a prompt.

Each (address, key) pair gets a hash and the highest wins, so adding or losing an address moves only its own keys.
Source: Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from redraft.errors import InvalidArgument


def order(addresses: Sequence[str], key: bytes) -> list[str]:
    """Return the addresses by descending claim on `key`; the first owns it."""
    return sorted(
        addresses, key=lambda address: xxhash.xxh3_64_intdigest(address.encode() + b"\0" + key), reverse=True
    )


def choose(addresses: Sequence[str], key: bytes) -> str:
    """Return the address that owns `key`."""
    if len(addresses) == 1:
        return addresses[0]
    return order(addresses, key)[0]


def check_addresses(addresses: Sequence[str]) -> list[str]:
    """Return the addresses as a list, each once.

    Raises:
        InvalidArgument: there is none, or one is not "host:port".
    """
    if isinstance(addresses, str):
        raise InvalidArgument(f"addresses: must be a list of host:port, got the string {addresses!r}")
    found = list(dict.fromkeys(addresses))
    if not found:
        raise InvalidArgument("addresses: must name at least one server as host:port")
    for address in found:
        host, _, port = address.rpartition(":")
        if not address.startswith("unix:") and not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise InvalidArgument(f"addresses: {address!r} is not host:port")
    return found
