"""verl's clients of the engines, with every attempt noted (`attempts`)."""

from __future__ import annotations

import copy
from typing import Any

from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient

from redraft.recipe.verl.attempts import note


class NotingClient(LLMServerClient):
    """verl's client, noting each attempt."""

    async def generate(self, request_id: Any, **kwargs: Any) -> Any:
        """Generate as verl does."""
        output = await super().generate(request_id, **kwargs)
        note(output)
        return output


class NotingAsyncClient(FullyAsyncLLMServerClient, NotingClient):
    """verl's client that resumes what was aborted: each of its attempts is a call of the next class's `generate`."""


_NOTING: dict[type, type] = {LLMServerClient: NotingClient, FullyAsyncLLMServerClient: NotingAsyncClient}


def noting(client: Any) -> Any:
    """Return a copy of one of verl's clients that notes its attempts; another class's client as it is.

    A class of one's own notes them too when it inherits from verl's and then from `NotingClient`.
    """
    noting_class = _NOTING.get(type(client))
    if noting_class is None:
        return client
    client = copy.copy(client)
    client.__class__ = noting_class
    return client
