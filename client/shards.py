"""A list of servers that may change while things run: one thread each, and which of them owns a prompt."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from redraft.client.credentials import Credentials
from redraft.client.rendezvous import check_addresses, choose


class Keyed(Protocol):
    """What waits for a server."""

    @property
    def key(self) -> bytes:
        """Its prompt's key."""


Item = TypeVar("Item", bound=Keyed)


class Shards:
    """One background thread for each server address. Not thread-safe: the owner's lock guards it.

    Args:
        addresses: servers as host:port.
        work: run on an address' thread with the address and an event that is set when it should end.
        name: what the threads are called.
        credentials: what the servers are sent.

    Raises:
        InvalidArgument: no address or an odd one.
        FailedPrecondition: the token would travel unencrypted to one of them.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        work: Callable[[str, threading.Event], None],
        name: str,
        credentials: Credentials,
    ) -> None:
        self._work, self._name, self._credentials = work, name, credentials
        self.addresses = check_addresses(addresses)
        credentials.check(self.addresses)
        self._running: dict[str, tuple[threading.Event, threading.Thread]] = {}

    def start(self) -> None:
        """Start the threads that do not run yet."""
        for address in self.addresses:
            if address not in self._running:
                stop = threading.Event()
                thread = threading.Thread(
                    target=self._work, args=(address, stop), name=f"{self._name}-{address}", daemon=True
                )
                self._running[address] = (stop, thread)
                thread.start()

    def owner(self, key: bytes) -> str:
        """Return the address that owns a prompt."""
        return choose(self.addresses, key)

    def check(self, addresses: Sequence[str]) -> list[str]:
        """Return the addresses, each once, after the checks of the constructor."""
        fresh = check_addresses(addresses)
        self._credentials.check(fresh)
        return fresh

    def route(self, items: Iterable[Item], queues: dict[str, deque[Item]]) -> None:
        """Append every item to its prompt's owner's queue."""
        for item in items:
            queues[self.owner(item.key)].append(item)

    def replace(
        self, addresses: list[str], queues: dict[str, deque[Item]], calls: dict[str, Any]
    ) -> tuple[list[str], list[Any]]:
        """Use these addresses from now on: threads of those that are gone end, threads of new ones start, and what
        waited for a server that is gone waits for its prompt's new owner.

        Args:
            addresses: as `check` returned them.
            queues: one for each address, which is kept so.
            calls: running calls by address; those of servers that are gone are taken out.

        Returns:
            The addresses that are gone, and their calls, which are to be cancelled once the lock is free.
        """
        gone = [address for address in self.addresses if address not in addresses]
        self.addresses = addresses
        left = [item for address in gone for item in queues[address]]
        for address in gone:
            self._running.pop(address)[0].set()
            queues.pop(address).clear()  # its thread may look at it once more
        for address in addresses:
            queues.setdefault(address, deque())
        self.route(left, queues)
        self.start()
        return gone, [calls.pop(address) for address in gone if address in calls]

    def stop(self) -> list[threading.Thread]:
        """Tell all threads to end and return them."""
        for stop, _ in self._running.values():
            stop.set()
        return [thread for _, thread in self._running.values()]
