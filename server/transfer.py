"""Rollouts from and to files: JSON lines (plain, .gz, .zst) and Parquet, one row a response.

Columns: prompt_token_ids and response_token_ids (lists of integers), epoch, step, sample, and optionally reward,
group_id, validation, response_mask (list of 0 and 1) and weight_versions (first and last). Instead of token ids a row
may hold the texts prompt and response, if a tokenizer is given.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import zstandard

from redraft.errors import FailedPrecondition, InvalidArgument, NotFound
from redraft.rollout import Rollout
from redraft.server.history import GroupRecord
from redraft.wire import check_range

Tokenize = Callable[[str], list[int]]

_BATCH_ROWS = 1024


def read_rollouts(path: Path, *, tokenize: Tokenize | None = None) -> Iterator[Rollout]:
    """Yield the responses in a file.

    Rows without `sample` are numbered in the file's order within their (prompt, epoch, step, validation); rows without
    `epoch` or `step` get 0.

    Args:
        path: *.jsonl, *.jsonl.gz, *.jsonl.zst or *.parquet.
        tokenize: turns text into token ids; needed for rows of text.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: a row is malformed; the message starts with the file and row.
        FailedPrecondition: Parquet, but pyarrow is not installed; or text, but no tokenizer was given.
    """
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    numbers: dict[tuple[bytes, int, int, bool], int] = {}
    for row_number, row in enumerate(rows, start=1):
        where = f"{path.name} row {row_number}"
        yield _rollout(row, where, tokenize, numbers)


def write_rollouts(path: Path, groups: Iterator[GroupRecord]) -> int:
    """Write all responses of the groups to a new file of the kinds that `read_rollouts` takes; return their number.

    Raises:
        FailedPrecondition: Parquet, but pyarrow is not installed; or the file cannot be written.
    """
    rows = _rows(groups)
    try:
        if path.suffix == ".parquet":
            return _write_parquet(path, rows)
        count = 0
        with _open_text(path, "w") as file:
            for row in rows:
                file.write(json.dumps(row, separators=(",", ":")) + "\n")
                count += 1
        return count
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}") from None


def _rollout(
    row: Any, where: str, tokenize: Tokenize | None, numbers: dict[tuple[bytes, int, int, bool], int]
) -> Rollout:
    if not isinstance(row, Mapping):
        raise InvalidArgument(f"{where}: must be an object")
    reward = row.get("reward")
    if reward is not None and not (isinstance(reward, (int, float)) and math.isfinite(reward)):
        raise InvalidArgument(f"{where}: reward must be a finite number, got {reward!r}")
    rollout = Rollout(
        prompt_token_ids=_tokens(row, "prompt", where, tokenize),
        response_token_ids=_tokens(row, "response", where, tokenize),
        epoch=_count(row, "epoch", where),
        step=_count(row, "step", where),
        sample=_count(row, "sample", where),
        reward=None if reward is None else float(reward),
        group_id=str(row.get("group_id") or ""),
        validation=bool(row.get("validation") or False),
        response_mask=_mask(row, where),
        weight_versions=_versions(row, where),
    )
    if (
        rollout.response_mask is not None
        and np.shape(rollout.response_mask) != rollout.response_token_ids.shape
    ):
        raise InvalidArgument(f"{where}: response_mask must be as long as response_token_ids")
    if row.get("sample") is None:
        group = (rollout.key, rollout.epoch, rollout.step, rollout.validation)
        object.__setattr__(rollout, "sample", numbers.get(group, 0))
        numbers[group] = rollout.sample + 1
    return rollout


def _tokens(row: Mapping[str, Any], name: str, where: str, tokenize: Tokenize | None) -> Any:
    ids = row.get(f"{name}_token_ids")
    if ids is None:
        text = row.get(name)
        if not isinstance(text, str):
            raise InvalidArgument(f"{where}: needs {name}_token_ids, or {name} as text and --tokenizer")
        if tokenize is None:
            raise FailedPrecondition(f"{where}: holds text; name the model's tokenizer with --tokenizer")
        ids = tokenize(text)
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InvalidArgument(f"{where}: {name}_token_ids must be a list of at least one integer")
    check_range(array, f"{where}: {name}_token_ids", 0)
    return array.astype(np.int32)


def _mask(row: Mapping[str, Any], where: str) -> list[int] | None:
    mask = row.get("response_mask")
    if mask is not None and not (isinstance(mask, list) and all(bit in (0, 1) for bit in mask)):
        raise InvalidArgument(f"{where}: response_mask must be a list of 0 and 1")
    return mask


def _versions(row: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    versions = row.get("weight_versions")
    if versions is None:
        return None
    good = isinstance(versions, list) and len(versions) == 2 and all(isinstance(v, int) for v in versions)
    if not good or not 0 <= versions[0] <= versions[1] < 2**63:
        raise InvalidArgument(f"{where}: weight_versions must be two rising integers, got {versions!r}")
    return versions[0], versions[1]


def _count(row: Mapping[str, Any], name: str, where: str) -> int:
    value = row.get(name)
    if value is None:
        return 0
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise InvalidArgument(f"{where}: {name} must be an integer in [0, 2**32), got {value!r}")
    return int(value)


def _rows(groups: Iterator[GroupRecord]) -> Iterator[dict[str, Any]]:
    for group in groups:
        prompt = group.prompt_token_ids.tolist()
        for response in group.responses:
            row = {
                "prompt_token_ids": prompt,
                "response_token_ids": response.token_ids.tolist(),
                "epoch": group.epoch,
                "step": group.step,
                "sample": response.sample,
                "reward": response.reward,
                "group_id": group.group_id,
                "validation": group.validation,
            }
            if response.context is not None:
                row["response_mask"] = (~response.context).astype(int).tolist()
            if response.versions is not None:
                row["weight_versions"] = list(response.versions)
            yield row


def _open_text(path: Path, mode: str) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, mode + "t", encoding="utf-8"))
    if path.suffix == ".zst":
        return cast(TextIO, zstandard.open(path, mode + "t", encoding="utf-8"))
    return cast(TextIO, open(path, mode, encoding="utf-8"))


def _json_rows(path: Path) -> Iterator[Any]:
    number = 0
    try:
        with _open_text(path, "r") as file:
            for line in file:
                number += 1
                if line.strip():
                    yield json.loads(line)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path.name} line {number}: not JSON: {error}") from None
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise InvalidArgument(f"{path.name}: cannot be read after line {number}: {error}") from None


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise FailedPrecondition(
            "pyarrow: not installed, Parquet needs it: pip install 'redraft[parquet]'"
        ) from None
    return pyarrow


def _parquet_rows(path: Path) -> Iterator[Any]:
    pyarrow = _parquet()
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except pyarrow.ArrowInvalid as error:
        raise InvalidArgument(f"{path.name}: not Parquet: {error}") from None
    with file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            yield from batch.to_pylist()


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    pyarrow = _parquet()
    ids = pyarrow.list_(pyarrow.int32())
    schema = pyarrow.schema(
        [
            ("prompt_token_ids", ids),
            ("response_token_ids", ids),
            ("epoch", pyarrow.int64()),
            ("step", pyarrow.int64()),
            ("sample", pyarrow.int64()),
            ("reward", pyarrow.float64()),
            ("group_id", pyarrow.string()),
            ("validation", pyarrow.bool_()),
            ("response_mask", pyarrow.list_(pyarrow.int8())),
            ("weight_versions", pyarrow.list_(pyarrow.int64())),
        ]
    )
    count = 0
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            count += 1
            if len(batch) == _BATCH_ROWS:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
    return count
