"""The C++ core: indexes over token ids and batch drafting. It knows nothing of requests, tokenizers or RPC."""

from collections.abc import Buffer
from typing import final

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

SOURCE_NONE: int
SOURCE_HISTORY: int
SOURCE_LIVE: int

@final
class FrozenIndex:
    """Immutable suffix-tree index over all responses of one prompt's history window."""

    @staticmethod
    def build(
        token_ids: Int32Array,
        offsets: Int64Array,
        weights: Float32Array | None = None,
        *,
        memory_limit: int = 0,
    ) -> FrozenIndex: ...
    @staticmethod
    def from_buffer(buffer: Buffer) -> FrozenIndex: ...
    def to_bytes(self) -> bytes: ...
    def match_length(self, context: Int32Array) -> int: ...
    def count(self, context: Int32Array) -> int: ...
    def weight(self, context: Int32Array) -> float: ...
    def continuation(self, context: Int32Array, *, horizon: int) -> tuple[Int32Array, Float32Array]: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_responses(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

@final
class LiveIndex:
    """Growing index of one group: the prompt and every sibling's tokens so far."""

    def __init__(self, prompt_token_ids: Int32Array, *, memory_limit: int = 0) -> None: ...
    def add_sequence(self, token_ids: Int32Array | None = None) -> int: ...
    def append(self, sequence: int, token_ids: Int32Array) -> None: ...
    def end_sequence(self, sequence: int) -> None: ...
    def match_length(self, context: Int32Array) -> int: ...
    def count(self, context: Int32Array) -> int: ...
    def continuation(self, context: Int32Array, *, horizon: int) -> tuple[Int32Array, Float32Array]: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

@final
class DraftBatch:
    """Drafts of one engine step, ragged: row i is `token_ids[offsets[i]:offsets[i + 1]]`."""

    token_ids: Int32Array
    offsets: Int32Array
    probabilities: Float32Array
    sources: UInt8Array
    match_lengths: Int32Array

@final
class Drafter:
    """Every running request's cursors, and the call that drafts for a whole batch."""

    def __init__(self, *, min_survival: float = ..., num_threads: int = 1) -> None: ...
    def open(
        self,
        live: LiveIndex,
        response_token_ids: Int32Array | None = None,
        *,
        history: FrozenIndex | None = None,
    ) -> int: ...
    def set_history(self, request: int, history: FrozenIndex | None) -> None: ...
    def close(self, request: int) -> None: ...
    def length(self, request: int) -> int: ...
    def step(
        self,
        requests: Int32Array,
        new_token_ids: Int32Array,
        offsets: Int32Array,
        horizons: Int32Array,
        *,
        budget: int = -1,
    ) -> DraftBatch: ...
    def stats(self) -> dict[str, Int64Array]: ...
    @property
    def num_requests(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
