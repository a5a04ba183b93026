"""What an engine step costs, as a table in a file: measured by `redraft bench cost-table` or taken from elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from redraft.errors import InvalidArgument

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CostTable:
    """Seconds of an engine step by running requests and by draft tokens of the whole batch.

    Linear between the points, and on with the slope of the last two beyond them (in requests: with the slope of plain
    decoding); the first point holds below it.
    """

    name: str
    source: str
    """Where the figures come from: hardware, model, engine, publication."""
    requests: Float64Array
    """Shape (m,), rising, > 0; empty for a table by tokens alone."""
    draft_tokens: Float64Array
    """Shape (n,), rising from 0. Of a table by tokens alone: tokens of a step, requests included, rising, > 0."""
    seconds: Float64Array
    """Shape (m, n), > 0; shape (1, n) for a table by tokens alone."""

    def seconds_at(self, requests: float, draft_tokens: npt.ArrayLike) -> Float64Array:
        """Return the seconds of a step with `requests` and each number of draft tokens; the latter's shape."""
        tokens = np.asarray(draft_tokens, np.float64)
        if not self.requests.size:
            return _line(self.draft_tokens, self.seconds[0], tokens + requests)
        if len(self.requests) == 1 or requests <= self.requests[0]:
            return _line(self.draft_tokens, self.seconds[0], tokens)
        if requests >= self.requests[-1]:
            more = float(_line(self.requests, self.seconds[:, 0], np.asarray(requests)) - self.seconds[-1, 0])
            return np.asarray(_line(self.draft_tokens, self.seconds[-1], tokens) + more)
        upper = int(np.searchsorted(self.requests, requests))
        part = (requests - self.requests[upper - 1]) / (self.requests[upper] - self.requests[upper - 1])
        low, high = (_line(self.draft_tokens, row, tokens) for row in self.seconds[upper - 1 : upper + 1])
        return np.asarray(low + part * (high - low))

    def to_json(self) -> dict[str, Any]:
        """Return what `read_cost_table` reads."""
        described: dict[str, Any] = {"name": self.name, "source": self.source}
        if self.requests.size:
            described["requests"] = self.requests.astype(int).tolist()
            described["draft_tokens"] = self.draft_tokens.astype(int).tolist()
            return described | {"seconds": self.seconds.tolist()}
        return described | {
            "tokens": self.draft_tokens.astype(int).tolist(),
            "seconds": self.seconds[0].tolist(),
        }


def read_cost_table(path: Path) -> CostTable:
    """Read a table: one JSON object with `name`, `source` and either of two forms.

    `requests`, `draft_tokens` (of the whole batch, from 0) and `seconds`, a list for each number of requests; or
    `tokens` (of a whole step) and `seconds`, where a step costs the same whoever its tokens belong to.

    Raises:
        InvalidArgument: it can't be read, or is not of that form; starts with "cost_table".
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        by_tokens = "tokens" in table
        requests = np.asarray([] if by_tokens else table["requests"], np.float64)
        tokens = np.asarray(table["tokens" if by_tokens else "draft_tokens"], np.float64)
        seconds = np.atleast_2d(np.asarray(table["seconds"], np.float64))
        name, source = str(table.get("name", path.stem)), str(table.get("source", ""))
    except OSError as error:
        raise InvalidArgument(f"cost_table: {path} can't be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"cost_table: {path} is not a cost table: {error!r}") from None
    rows = 1 if by_tokens else len(requests)
    for axis, values in (("requests", requests), ("tokens" if by_tokens else "draft_tokens", tokens)):
        if values.ndim != 1 or (np.diff(values) <= 0).any():
            raise InvalidArgument(f"cost_table: {path}: {axis} must be a list of rising numbers")
    if rows == 0 or tokens.size < 2 or seconds.shape != (rows, tokens.size):
        raise InvalidArgument(
            f"cost_table: {path}: seconds must be {rows} x {tokens.size}, with two tokens or more"
        )
    if not (np.isfinite(seconds) & (seconds > 0)).all():
        raise InvalidArgument(f"cost_table: {path}: seconds must be finite and > 0")
    if (requests.size and requests[0] <= 0) or (tokens[0] <= 0 if by_tokens else tokens[0] != 0):
        raise InvalidArgument(
            f"cost_table: {path}: requests and tokens must be > 0, draft_tokens start with 0"
        )
    return CostTable(name, source, requests, tokens, seconds)


def _line(points: Float64Array, values: Float64Array, at: Float64Array) -> Float64Array:
    slope = max(0.0, (values[-1] - values[-2]) / (points[-1] - points[-2]))
    return np.asarray(np.interp(at, points, values) + slope * np.maximum(at - points[-1], 0))
