"""A list of servers that may change while things run: one thread each, and which of them owns a prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from redraft.client.credentials import Credentials
from redraft.client.rendezvous import check_addresses, choose


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

    def replace(self, addresses: list[str]) -> list[str]:
        """Use these addresses from now on; tell the threads of those that are gone to end and return their addresses.

        Call `start` afterwards, once the owner is ready for new threads.
        """
        gone = [address for address in self.addresses if address not in addresses]
        self.addresses = addresses
        for address in gone:
            self._running.pop(address)[0].set()
        return gone

    def stop(self) -> list[threading.Thread]:
        """Tell all threads to end and return them."""
        for stop, _ in self._running.values():
            stop.set()
        return [thread for _, thread in self._running.values()]
