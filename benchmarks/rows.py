"""Files of recorded rollouts, row by row: JSON lines and Parquet, every field checked."""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from redraft.errors import InvalidArgument

Int32Array = npt.NDArray[np.int32]
Text = str | Int32Array
"""Text, or token ids: int32, shape (n,)."""


@dataclass(frozen=True)
class Row:
    """One rollout as it stands in the file."""

    key: str
    """What names its prompt: prompt_id, or the prompt itself."""
    prompt: Text
    epoch: int
    sample: int
    response: Text
    reward: float
    turns: list[tuple[Text, Text]]
    """Context (what user and tools said since the turn before) and response of each turn; empty for one turn."""


def rows_of(path: Path) -> Iterator[Row]:
    """Read a file of rollouts.

    Args:
        path: JSON lines (.jsonl, .jsonl.gz, .jsonl.zst) or Parquet. A row has prompt or prompt_token_ids, response or
            response_token_ids, and may have prompt_id, epoch and sample (0 else), reward, and turns: a list of objects
            with context or context_token_ids and response or response_token_ids, which then stand for the response.

    Raises:
        InvalidArgument: the file or a row is not of that form; names the row and the field.
    """
    for number, row in _objects(path):
        where = f"{path.name}: row {number}"
        turns = [_turn(turn, f"{where}: turns[{i}]") for i, turn in enumerate(_turns(row, where))]
        empty = np.empty(0, np.int32)
        response = empty if turns else _text(row, "response", where)
        known = row.get("prompt_id")
        if known is None:
            known = row.get("prompt", row.get("prompt_token_ids"))
        prompt = _text(row, "prompt", where)
        epoch, sample = _whole(row, "epoch", where), _whole(row, "sample", where)
        yield Row(str(known), prompt, epoch, sample, response, _reward(row, where), turns)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            yield from enumerate(parquet.read_table(path).to_pylist(), 1)
            return
        data = path.read_bytes()
        if path.suffix == ".zst":
            import zstandard

            data = (
                zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
            )
        elif path.suffix == ".gz":
            data = gzip.decompress(data)
    except Exception as error:
        if not isinstance(error, OSError | EOFError | ValueError | zlib.error) and not _is_ours(error):
            raise
        raise InvalidArgument(f"{path.name}: can't be read: {error}") from None
    for number, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidArgument(f"{path.name}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InvalidArgument(f"{path.name}: line {number} must be a JSON object")
        yield number, row


def _is_ours(error: Exception) -> bool:
    """Return whether a library that reads files raised it."""
    return type(error).__module__.partition(".")[0] in ("zstandard", "zstd", "pyarrow")


def _text(row: dict[str, Any], field: str, where: str) -> Text:
    ids = row.get(f"{field}_token_ids")
    if ids is not None:
        return _ids(ids, f"{where}: {field}_token_ids")
    text = row.get(field)
    if text is None:
        raise InvalidArgument(f"{where} has neither {field} nor {field}_token_ids")
    if not isinstance(text, str):
        raise InvalidArgument(f"{where}: {field} must be text, got {type(text).__name__}")
    return text


def _ids(ids: Any, where: str) -> Int32Array:
    try:
        array = np.asarray(ids)
        whole = array.astype(np.int64) if array.size else np.empty(0, np.int64)
        good = array.ndim == 1 and (whole == array).all() and (whole >= 0).all() and (whole < 2**31).all()
    except (ValueError, TypeError, OverflowError):
        good = False
    if not good:
        raise InvalidArgument(f"{where} must be a list of whole numbers from 0 to 2147483647")
    return whole.astype(np.int32)


def _turns(row: dict[str, Any], where: str) -> list[Any]:
    turns = row.get("turns")
    if turns is None:
        return []
    if not isinstance(turns, list):
        raise InvalidArgument(f"{where}: turns must be a list, got {type(turns).__name__}")
    return turns


def _turn(turn: Any, where: str) -> tuple[Text, Text]:
    if not isinstance(turn, dict):
        raise InvalidArgument(f"{where} must be an object with context and response")
    return _text(turn, "context", where), _text(turn, "response", where)


def _whole(row: dict[str, Any], field: str, where: str) -> int:
    value = row.get(field)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 0:
        raise InvalidArgument(f"{where}: {field} must be a whole number >= 0, got {value!r}")
    return int(value)


def _reward(row: dict[str, Any], where: str) -> float:
    value = row.get("reward")
    if value is None:
        return 0.0
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgument(f"{where}: reward must be a finite number, got {value!r}")
    return float(value)
