"""The server's log: one line for each notable event, as text or as JSON. Token ids and secrets never get into it."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import OrderedDict
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["text", "json"]

_FIELDS = "redraft_fields"
_MAX_SAID = 10_000


def event(logger: logging.Logger, level: int, what: str, /, **fields: object) -> None:
    """Log one event.

    Args:
        logger: where.
        level: `logging.INFO` and so on.
        what: the event, in a few words that never change, so that it can be searched for.
        fields: its particulars: names, counts, paths. Not what anybody's tokens are.
    """
    logger.log(level, what, extra={_FIELDS: fields})


class Throttle:
    """Says whether an event may be logged again: what a client can bring about at will must not flood the log.

    Args:
        seconds: how long an event stays quiet once it was logged.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._said: OrderedDict[tuple[str, ...], float] = OrderedDict()

    def allows(self, *what: str) -> bool:
        """Return whether `what` was not said lately, and note that it is said now."""
        now = time.monotonic()
        with self._lock:
            if now - self._said.get(what, -self._seconds) < self._seconds:
                return False
            self._said[what] = now
            self._said.move_to_end(what)
            if len(self._said) > _MAX_SAID:
                self._said.popitem(last=False)
            return True


class TextFormatter(logging.Formatter):
    """Appends an event's fields to its line as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, object] = getattr(record, _FIELDS, {})
        shown = "".join(f" {name}={_plain(value)}" for name, value in fields.items())
        head, newline, trace = super().format(record).partition("\n")
        return head + shown + newline + trace


class _JsonFormatter(JsonFormatter):
    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        """Put an event's fields beside its message; they never replace what each line has."""
        fields = log_data.pop(_FIELDS, {})
        assert isinstance(fields, dict)
        plain = {
            name: value if isinstance(value, (int, float, str, type(None))) else str(value)
            for name, value in fields.items()
        }
        return plain | log_data


def formatter(form: LogFormat) -> logging.Formatter:
    """Return what makes lines of the given form."""
    if form == "text":
        return TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    return _JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "message": "event"},
    )


def set_up(level: str, form: LogFormat) -> None:
    """Send the process's log to its error stream.

    Args:
        level: "debug", "info", "warning" or "error".
        form: "text" for people, "json" for machines: one object a line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _plain(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if text and text.isprintable() and " " not in text and '"' not in text else repr(text)
