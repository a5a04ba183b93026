"""Where history comes from: the engine's own ended responses, or draft servers. Neither makes a step wait."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from typing import Protocol

import numpy as np
import numpy.typing as npt

from redraft._core import FrozenIndex
from redraft.at_exit import close_at_exit
from redraft.recipe.vllm.responses import EndedResponses
from redraft.rollout import prompt_key

Int32Array = npt.NDArray[np.int32]


class HistorySource(Protocol):
    """Hands out a prompt's frozen index. Every method returns at once and none raises for lack of a
    server."""

    keeps_ended: bool
    """Whether responses that ended in this engine come back as history by themselves."""

    @property
    def arrivals(self) -> int:
        """Grows whenever `get` has something new for some prompt."""

    def prefetch(self, prompt: Int32Array) -> None:
        """Start getting the prompt's index, in the background."""

    def get(self, prompt: Int32Array) -> FrozenIndex | None:
        """Return the prompt's index if it is here, else None."""

    def group_ended(self, prompt: Int32Array) -> None:
        """Take note that no request of the prompt runs any more."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the indexes held."""

    @property
    def num_unavailable(self) -> int:
        """How often a source was wanted and could not be reached."""

    @property
    def fetches(self) -> tuple[int, float]:
        """Calls that brought answers, and their time in seconds."""

    def close(self) -> None:
        """Stop the background work."""


class EmbeddedHistory:
    """History without a server: an index over the engine's own ended responses to the prompt.

    A group's index is built in a background thread when its last request has ended, so it serves from the
    next time the prompt is rolled out.

    Args:
        ended: where the proposer puts the responses that ended; its bound is this source's bound.
    """

    keeps_ended = True

    def __init__(self, ended: EndedResponses) -> None:
        self._ended = ended
        self._built: OrderedDict[bytes, tuple[Int32Array, FrozenIndex]] = OrderedDict()
        self._arrivals = 0
        self._todo: queue.SimpleQueue[Int32Array | None] = queue.SimpleQueue()
        self._builder = threading.Thread(target=self._build_all, name="redraft-build", daemon=True)
        self._builder.start()
        close_at_exit(self)

    @property
    def arrivals(self) -> int:
        """Number of indexes built."""
        return self._arrivals

    def prefetch(self, prompt: Int32Array) -> None:
        """Do nothing: what there is, is here."""

    def get(self, prompt: Int32Array) -> FrozenIndex | None:
        """Return the prompt's index if it was built, else None."""
        entry = self._built.get(prompt_key(prompt))
        return entry[1] if entry is not None and np.array_equal(entry[0], prompt) else None

    def group_ended(self, prompt: Int32Array) -> None:
        """Have the prompt's index built anew."""
        self._todo.put(prompt)

    @property
    def num_bytes(self) -> int:
        """Bytes of the built indexes."""
        return sum(index.nbytes for _, index in list(self._built.values()))

    @property
    def num_unavailable(self) -> int:
        """0: there is nothing to be unavailable."""
        return 0

    @property
    def fetches(self) -> tuple[int, float]:
        """None: nothing is fetched."""
        return 0, 0.0

    def close(self) -> None:
        """Stop the builder, after what it has to do."""
        self._todo.put(None)
        self._builder.join()

    def _build_all(self) -> None:
        while (prompt := self._todo.get()) is not None:
            responses = self._ended.of(prompt)
            key = prompt_key(prompt)
            if responses:
                offsets = np.zeros(len(responses) + 1, np.int64)
                np.cumsum([len(response) for response in responses], out=offsets[1:])
                self._built[key] = (prompt, FrozenIndex.build(np.concatenate(responses), offsets))
                self._built.move_to_end(key)
                self._arrivals += 1
            # Responses leave oldest prompt first; their indexes leave with them.
            while len(self._built) > len(self._ended):
                self._built.popitem(last=False)
