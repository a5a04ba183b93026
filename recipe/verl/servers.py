"""The option `redraft.addresses` as every process of a training run takes it: a list, or a file that is followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redraft.recipe.vllm import servers
from redraft.recipe.vllm.options import Options


class Servers:
    """Draft servers that may change while training runs.

    Rollout engines follow the same file by themselves (the proposer's option `addresses`).

    Args:
        addresses: host:port each, or only file:PATH.

    Raises:
        InvalidArgument: the file cannot be read or holds no addresses, or one of them is odd.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._given = Options(addresses=tuple(addresses))
        self.now = list(servers.resolve(self._given).addresses)
        """As they are at the start, host:port."""

    def follow(self, *users: Any) -> servers.Followed:
        """Hand every other list that the file holds from now on to `users` (`set_addresses`), until it is closed."""
        return servers.Followed(self._given, *users)
