"""Groups of responses to measure with: recorded ones from JSONL files, and synthetic ones."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zstandard

from redraft.errors import InvalidArgument, NotFound

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

DEMO_MODEL = "SmolLM2-135M-Instruct"  # what `redraft demo` prepares, in the same folder

LONGEST_RESPONSE = 12_000  # tokens; longer ones are cut


@dataclass(frozen=True, slots=True)
class Group:
    """All responses to one prompt."""

    prompt: Int32Array
    responses: list[Int32Array]

    @property
    def num_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(response) for response in self.responses)


@dataclass(frozen=True, slots=True)
class Trace:
    """Groups under one name."""

    name: str
    groups: list[Group]

    @property
    def num_tokens(self) -> int:
        """Tokens of all groups' responses."""
        return sum(group.num_tokens for group in self.groups)


def flatten(responses: Sequence[Int32Array]) -> tuple[Int32Array, Int64Array]:
    """Return token ids, int32, shape (n,), and offsets, int64, shape (m + 1,), as `FrozenIndex.build` wants them."""
    offsets = np.zeros(len(responses) + 1, dtype=np.int64)
    np.cumsum([len(response) for response in responses], out=offsets[1:])
    return np.concatenate(responses), offsets


def find_tokenizer(path: Path | None) -> Path:
    """Return the tokenizer.json to use: `path` (the file or its folder), else the one that `redraft demo` prepared.

    Raises:
        NotFound: there is none.
    """
    import os

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redraft" / DEMO_MODEL
    chosen = path if path is not None else cache
    file = chosen / "tokenizer.json" if chosen.is_dir() or path is None else chosen
    if not file.is_file():
        raise NotFound(
            f"tokenizer: no file {file}; give --tokenizer a folder with tokenizer.json, "
            "or run `redraft demo --model smollm2` once, which prepares one"
        )
    return file


def open_text(path: Path) -> io.TextIOBase:
    """Open a text file for reading, through gzip or zstd when its name ends so."""
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8")
    if path.suffix == ".zst":
        return io.TextIOWrapper(zstandard.open(path), encoding="utf-8")
    return path.open(encoding="utf-8")


def read(path: Path, tokenizer: Path, *, num_prompts: int) -> Trace:
    """Read the first prompts of a recorded trace; each response gets the end token.

    Args:
        path: JSONL, optionally .gz or .zst, with prompt_id, prompt and response on each line.
        tokenizer: tokenizer.json.
        num_prompts: prompts to read, > 0.

    Raises:
        NotFound: no such file.
        InvalidArgument: a line is not such an object.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise NotFound(f"file: no file {path}")
    encoder = Tokenizer.from_file(str(tokenizer))
    end = next(
        (i for t in ("<|im_end|>", "</s>", "<|endoftext|>") if (i := encoder.token_to_id(t)) is not None), 0
    )
    prompts: dict[str, str] = {}
    responses: dict[str, list[str]] = {}
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                key, prompt, response = str(row["prompt_id"]), str(row["prompt"]), str(row["response"])
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidArgument(f"file: {path}, line {number}: {error!r}") from error
            if key not in prompts and len(prompts) == num_prompts:
                continue
            prompts.setdefault(key, prompt)
            responses.setdefault(key, []).append(response)

    def encode(text: str) -> list[int]:
        return encoder.encode(text, add_special_tokens=False).ids[:LONGEST_RESPONSE]

    groups = [
        Group(ids(encode(prompts[key])), [ids([*encode(response), end]) for response in texts])
        for key, texts in responses.items()
    ]
    return Trace(path.name.split(".")[0], groups)


def ids(values: Sequence[int]) -> Int32Array:
    """Return int32 token ids."""
    return np.array(values, dtype=np.int32)


def drifting(num_tokens: int, *, seed: int = 0) -> Trace:
    """Return one prompt's group whose responses drift apart, as a policy's do while it trains.

    Each response is the one before, with some tokens exchanged and a passage rewritten; token frequencies follow
    Zipf's law.
    """
    random = np.random.default_rng(seed)

    def words(count: int) -> npt.NDArray[np.int64]:
        return (random.zipf(1.3, count) - 1) % 3000

    def drift() -> Iterator[Int32Array]:
        current = words(600)
        while True:
            response = current.copy()
            changed = random.random(len(response)) < 0.08
            response[changed] = words(int(changed.sum()))
            cut = int(random.integers(0, len(response) - 60))
            rewritten = words(int(random.integers(0, 60)))
            response = np.concatenate(
                [response[:cut], rewritten, response[cut + int(random.integers(0, 50)) :]]
            )
            if random.random() < 0.3:
                current = response[:900]
            yield response.astype(np.int32)

    return Trace(
        f"drifting group, {num_tokens:,} tokens", [Group(ids([1, 2, 3]), cut_off(drift(), num_tokens))]
    )


def cut_off(responses: Iterator[Int32Array], num_tokens: int) -> list[Int32Array]:
    """Return the first responses, `num_tokens` in all."""
    taken: list[Int32Array] = []
    left = num_tokens
    while left > 0:
        taken.append(next(responses)[:left])
        left -= len(taken[-1])
    return taken


def random_tokens(num_tokens: int, *, seed: int = 0) -> Trace:
    """Return responses of 1,000 independent tokens each, from a vocabulary of 49,152."""
    random = np.random.default_rng(seed)
    responses = (random.integers(0, 49_152, 1_000).astype(np.int32) for _ in iter(int, 1))
    return Trace(f"random, {num_tokens:,} tokens", [Group(ids([1, 2, 3]), cut_off(responses, num_tokens))])


def loop(period: int, num_tokens: int = 200_000) -> Trace:
    """Return one response that repeats `period` tokens."""
    response = ids(range(7, 7 + period))[np.arange(num_tokens) % period]
    return Trace(f"loop of {period}, {num_tokens:,} tokens", [Group(ids([1, 2, 3]), [response])])
