"""Builds indexes before they are asked for: a prompt published in one epoch is indexed when the next asks."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

from redraft.errors import RedraftError, Unavailable
from redraft.server.history import GroupRecord, History, Int32Array, RunRecord
from redraft.server.indexes import IndexShelf
from redraft.server.logs import event

_LOG = logging.getLogger("redraft.server")
_MAX_WAITING = 100_000


class AheadBuilder:
    """One background thread that indexes prompts once their responses have stopped coming in.

    It yields to requests: while one of them waits for an index, nothing is built ahead; and it stops short of the
    memory budget, so that what it builds never drops what is in use.

    Args:
        history: where prompts are looked up.
        shelf: where indexes go.
        delay: how long a prompt must have been quiet, in seconds.
    """

    def __init__(self, history: History, shelf: IndexShelf, *, delay: float) -> None:
        self._history = history
        self._shelf = shelf
        self._delay = delay
        self._waiting: OrderedDict[tuple[int, bytes], tuple[float, RunRecord, Int32Array]] = OrderedDict()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="redraft-ahead", daemon=True)
        self._thread.start()

    def note(self, run: RunRecord, groups: Iterable[GroupRecord]) -> None:
        """Remember that these prompts have new responses; returns at once."""
        due = time.monotonic() + self._delay
        with self._changed:
            for group in groups:
                name = (run.run_id, group.key)
                self._waiting[name] = (
                    due,
                    run,
                    group.prompt_token_ids.copy(),
                )  # not the whole message's memory
                self._waiting.move_to_end(name)
                if len(self._waiting) > _MAX_WAITING:
                    self._waiting.popitem(last=False)
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        """Finish the build under way and stop."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stop.is_set())
                name, (due, run, token_ids) = next(iter(self._waiting.items()), ((0, b""), (0.0, None, None)))
            if self._stop.wait(max(due - time.monotonic(), 0.0)) or run is None or token_ids is None:
                continue
            if self._shelf.asked:
                self._stop.wait(0.005)
                continue
            with self._changed:
                newest = self._waiting.get(name)
                if newest is None or newest[0] > due:
                    continue  # more responses came in meanwhile
                del self._waiting[name]
            self._build(run, name[1], token_ids)

    def _build(self, run: RunRecord, key: bytes, token_ids: Int32Array) -> None:
        try:
            prompt = self._history.prompt(run, key, token_ids)
            if prompt is not None and self._shelf.has_room(prompt.prompt_id):
                self._shelf.build_ahead(prompt)
        except Unavailable:
            pass  # the server is stopping
        except RedraftError as error:
            event(_LOG, logging.WARNING, "no index ahead", run=run.name, reason=error)
        except Exception:  # the thread must outlive whatever one prompt does to it
            _LOG.exception("could not index a prompt of run %s ahead of need", run.name)
