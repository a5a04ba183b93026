"""Frozen indexes in memory: built on demand, each once however many ask, the least recently used dropped first."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Literal

from redraft._core import FrozenIndex
from redraft.server.config import WindowConfig
from redraft.server.history import History, PromptRecord
from redraft.server.window import choose


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """One prompt's index at one revision."""

    revision: int
    blob: bytes
    """What goes over the wire."""
    index: FrozenIndex
    """The same, readable in place."""
    responses: int
    tokens: int
    newest_epoch: int


@dataclass(slots=True)
class IndexCounts:
    """What happened to indexes since the start."""

    builds: int = 0
    build_seconds: float = 0.0
    hits: int = 0
    misses: int = 0
    not_modified: int = 0
    absent: int = 0
    """Wanted indexes of prompts without history."""
    failed: int = 0
    evictions: int = 0


class IndexShelf:
    """Serves the newest index of any prompt, within a byte budget. Safe to call from several threads.

    Args:
        history: where responses come from.
        window: which of them are indexed.
        memory_bytes: budget for the indexes kept, in bytes; one that is larger is served but not kept.
        builders: indexes built at once.
        on_build: is told the seconds that each build took.
    """

    def __init__(
        self,
        history: History,
        window: WindowConfig,
        *,
        memory_bytes: int,
        builders: int = 2,
        on_build: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._history = history
        self._window = window
        self._memory_bytes = memory_bytes
        self._on_build = on_build
        self._builders = threading.BoundedSemaphore(builders)
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, BuiltIndex] = OrderedDict()
        self._building: dict[tuple[int, int], Future[BuiltIndex | None]] = {}
        self._nbytes = 0
        self._asked = 0
        self._counts = IndexCounts()

    def get(self, prompt: PromptRecord) -> BuiltIndex | None:
        """Return the prompt's index at its revision or a newer one; None when its window is empty.

        Raises:
            ResourceExhausted: the index cannot be built in the memory there is.
        """
        with self._lock:
            kept = self._kept.get(prompt.prompt_id)
            if kept is not None and kept.revision >= prompt.revision:
                self._kept.move_to_end(prompt.prompt_id)
                self._counts.hits += 1
                return kept
            self._counts.misses += 1
            self._asked += 1
        try:
            return self._share(prompt)
        finally:
            with self._lock:
                self._asked -= 1

    def build_ahead(self, prompt: PromptRecord) -> None:
        """Build and keep the prompt's index, if it is not there, although nobody asked for it yet."""
        kept = self._kept.get(prompt.prompt_id)
        if kept is None or kept.revision < prompt.revision:
            self._share(prompt)

    @property
    def asked(self) -> int:
        """Requests that wait for an index now."""
        return self._asked

    def has_room(self, prompt_id: int) -> bool:
        """Return whether one more index, or a new one of the same prompt, would drop no other."""
        return prompt_id in self._kept or self._nbytes < 0.9 * self._memory_bytes

    def _share(self, prompt: PromptRecord) -> BuiltIndex | None:
        with self._lock:
            flight = (prompt.prompt_id, prompt.revision)
            future = self._building.get(flight)
            mine = future is None
            if future is None:
                future = self._building[flight] = Future()
        if mine:
            self._fly(prompt, future)
        return future.result()

    def note(self, outcome: Literal["not_modified", "absent", "failed"]) -> None:
        """Count a wanted index that was not served: the asker held it, there is no history, or it failed."""
        with self._lock:
            setattr(self._counts, outcome, getattr(self._counts, outcome) + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the indexes kept."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._kept)

    def counts(self) -> IndexCounts:
        """Return a copy of the counts."""
        with self._lock:
            return replace(self._counts)

    def _fly(self, prompt: PromptRecord, future: Future[BuiltIndex | None]) -> None:
        built: BuiltIndex | None = None
        error: BaseException | None = None
        try:
            with self._builders:
                built = self._build(prompt)
        except BaseException as failure:
            error = failure
        with self._lock:
            del self._building[prompt.prompt_id, prompt.revision]
            if built is not None:
                self._keep(prompt.prompt_id, built)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(built)

    def _build(self, prompt: PromptRecord) -> BuiltIndex | None:
        started = time.perf_counter()
        window = choose(self._history.groups(prompt), self._window)
        if not window.responses:
            return None
        blob = FrozenIndex.build(window.token_ids, window.offsets, window.weights).to_bytes()
        seconds = time.perf_counter() - started
        with self._lock:
            self._counts.builds += 1
            self._counts.build_seconds += seconds
        self._on_build(seconds)
        return BuiltIndex(
            revision=prompt.revision,
            blob=blob,
            index=FrozenIndex.from_buffer(blob, verify=False),  # the bytes have not left this process
            responses=window.responses,
            tokens=window.token_ids.size,
            newest_epoch=window.newest_epoch,
        )

    def _keep(self, prompt_id: int, built: BuiltIndex) -> None:
        old = self._kept.get(prompt_id)
        if old is not None and old.revision >= built.revision:
            return
        if old is not None:
            self._nbytes -= len(self._kept.pop(prompt_id).blob)
        if len(built.blob) > self._memory_bytes:
            return
        self._kept[prompt_id] = built
        self._nbytes += len(built.blob)
        while self._nbytes > self._memory_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._nbytes -= len(dropped.blob)
            self._counts.evictions += 1
