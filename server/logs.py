"""The server's log: one line for each notable event, as text or as JSON. Token ids and secrets never get into it."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["text", "json"]

_FIELDS = "redraft_fields"


def event(logger: logging.Logger, level: int, what: str, /, **fields: object) -> None:
    """Log one event.

    Args:
        logger: where.
        level: `logging.INFO` and so on.
        what: the event, in a few words that never change, so that it can be searched for.
        fields: its particulars: names, counts, paths. Not what anybody's tokens are.
    """
    logger.log(level, what, extra={_FIELDS: fields})


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


def set_up(level: str, form: LogFormat, stream: TextIO = sys.stderr) -> None:
    """Send the process's log to a stream.

    Args:
        level: "debug", "info", "warning" or "error".
        form: "text" for people, "json" for machines: one object a line.
        stream: where to.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _plain(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if text and text.isprintable() and " " not in text and '"' not in text else repr(text)
