"""The C++ core: indexes over token ids and batch drafting. It knows nothing of engines, tokenizers or RPC.

Token ids are int32 and >= 0. Arrays must be contiguous, one-dimensional and of exactly the stated dtype; anything
else raises `InvalidArgument` with the argument's name, and the object stays as it was. Every call releases the GIL
while it works.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

SOURCE_NONE: int
"""No draft."""
SOURCE_HISTORY: int
"""Drafted from the request's frozen index."""
SOURCE_LIVE: int
"""Drafted from the group's live index: siblings, the prompt and the request's own output."""
SOURCE_SHARED: int
"""The draft came from the shared index over all prompts: no context of its own prompt's was known."""

@final
class FrozenIndex:
    """Immutable index over all responses of one prompt's history window, in one position-independent blob.

    Any number of threads and processes may read one blob at once. Each response is preceded by a virtual START:
    with `from_start` a context is taken to be all of a response so far, and START counts as one token of the match.
    """

    @staticmethod
    def build(
        token_ids: Int32Array,
        offsets: Int64Array,
        weights: Float32Array | None = None,
        *,
        memory_limit: int = 0,
    ) -> FrozenIndex:
        """Build the index. Linear in the number of tokens.

        Args:
            token_ids: int32, shape (n,): all responses one after the other, end tokens included.
            offsets: int64, shape (m + 1,), m >= 1: response i is `token_ids[offsets[i]:offsets[i + 1]]`, not empty.
            weights: float32, shape (m,), finite and > 0: what an occurrence in response i counts; None for 1 each.
            memory_limit: most bytes for the result and everything temporary; 0 for no limit.

        Raises:
            InvalidArgument: an argument is malformed.
            ResourceExhausted: `memory_limit` is too small, or there are 2**31 - 2 tokens or more.
        """

    @staticmethod
    def from_buffer(buffer: Buffer, *, verify: bool = True) -> FrozenIndex:
        """Read a blob where it lies: bytes, memoryview, mmap. The object keeps the buffer alive.

        Args:
            buffer: what `to_bytes` returned; must not change while the index lives.
            verify: also compare the checksum of the content, which reads all of it (about 0.1 ms a MB). The header
                is always checked, and no content can make a method read out of bounds or run forever, so a blob
                that was verified once, by whoever received it, needs no second look.

        Raises:
            DataLoss: truncated, damaged, or of another format version.
            InvalidArgument: not a contiguous buffer.
        """

    def to_bytes(self) -> bytes:
        """Return a copy of the blob."""

    def match_length(self, context: Int32Array, *, from_start: bool = False) -> int:
        """Return the length of the longest suffix of `context` that occurs in a response."""

    def count(self, context: Int32Array, *, from_start: bool = False) -> int:
        """Return how often `context` occurs; `num_tokens` for an empty one."""

    def weight(self, context: Int32Array, *, from_start: bool = False) -> float:
        """Return the sum over all occurrences of their response's weight."""

    def continuation(
        self, context: Int32Array, *, horizon: int, from_start: bool = False
    ) -> tuple[Int32Array, Float32Array]:
        """Return the heaviest continuation of the longest suffix of `context` that something follows.

        Args:
            context: int32, shape (n,), newest token last.
            horizon: most tokens to return, >= 0.

        Returns:
            token ids, int32, shape (k,), 0 <= k <= horizon, and for each its weight divided by the weight of the
            context before it, float32, shape (k,). Among equals the lowest id wins. k == 0 when nothing matches.
        """

    @property
    def num_tokens(self) -> int:
        """Tokens of all responses."""
    @property
    def num_responses(self) -> int:
        """Number of responses."""
    @property
    def nbytes(self) -> int:
        """Size of the blob in bytes: all that the index occupies, but for a fixed few hundred bytes."""

@final
class LiveIndex:
    """Growing index of one group: the prompt, stored once, and every sibling's tokens so far.

    Thread-safe: a lock makes calls exclusive. Append is amortised O(1) a token; contexts may be of any length.
    """

    def __init__(self, prompt_token_ids: Int32Array, *, memory_limit: int = 0, count_depth: int = 8) -> None:
        """Index the prompt.

        Args:
            prompt_token_ids: int32, shape (n,), n >= 0.
            memory_limit: most bytes, checked before each call's tokens are added; 0 for no limit.
            count_depth: an appended token counts for this many of its longest contexts (more precisely, classes of
                contexts with equal occurrences), which bounds the work where text loops; > 0. Contexts shorter than
                those are counted too low, and so are their continuations.

        Raises:
            InvalidArgument: an argument is malformed.
            ResourceExhausted: the prompt does not fit in `memory_limit`.
        """

    def add_sequence(self, token_ids: Int32Array | None = None) -> int:
        """Start a sequence after the prompt, with `token_ids` if given, and return its handle (0, 1, ...)."""

    def append(self, sequence: int, token_ids: Int32Array) -> None:
        """Append to a sequence; sequences may grow in any order.

        Raises:
            InvalidArgument: `token_ids` is malformed.
            NotFound: `sequence` is unknown or has ended.
            ResourceExhausted: `memory_limit` is reached.
        """

    def end_sequence(self, sequence: int) -> None:
        """Drop the sequence's cursor; its text keeps serving the group.

        Raises:
            NotFound: `sequence` is unknown or has ended.
        """

    def match_length(self, context: Int32Array) -> int:
        """Return the length of the longest suffix of `context` that occurs."""

    def count(self, context: Int32Array) -> int:
        """Return how often `context` occurs (see `count_depth`); `num_tokens` for an empty one."""

    def continuation(self, context: Int32Array, *, horizon: int) -> tuple[Int32Array, Float32Array]:
        """Return the most counted continuation, as `FrozenIndex.continuation` does.

        Among equally counted tokens the one that reached the count first wins.
        """

    def depth_limited(
        self,
        sequence: int,
        *,
        horizon: int,
        depth: int = 24,
        factor: float = 1.0,
        min_probability: float = 0.1,
    ) -> tuple[Int32Array, float]:
        """Draft by the rule of vLLM's `suffix` method, for comparison with it (`redraft bench acceptance`).

        Of all suffixes of the sequence's text that occur twice or more, the heaviest continuation with the highest
        sum of survivals, by shares of occurrences.

        Args:
            sequence: its handle.
            horizon: most tokens to return, >= 0.
            depth: most tokens of match and draft together, > 0.
            factor: most draft tokens for each matched token, >= 0.
            min_probability: of a drafted token, with all before it, >= 0.

        Returns:
            token ids, int32, shape (k,), 0 <= k <= horizon, and the sum.

        Raises:
            InvalidArgument: an argument is out of range.
            NotFound: `sequence` is unknown or has ended.
        """

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of all sequences."""
    @property
    def num_sequences(self) -> int:
        """Sequences ever added."""
    @property
    def nbytes(self) -> int:
        """Bytes allocated."""

@final
class DraftBatch:
    """Drafts of one engine step, ragged: row i is `token_ids[offsets[i]:offsets[i + 1]]`."""

    @property
    def token_ids(self) -> Int32Array:
        """int32, shape (t,)."""
    @property
    def offsets(self) -> Int32Array:
        """int32, shape (b + 1,)."""
    @property
    def probabilities(self) -> Float32Array:
        """float32, shape (t,): each token's estimated acceptance, given that all before it in its row are accepted."""
    @property
    def sources(self) -> UInt8Array:
        """uint8, shape (b,): `SOURCE_*` of each row, `SOURCE_NONE` for an empty one."""
    @property
    def match_lengths(self) -> Int32Array:
        """int32, shape (b,): tokens of context that the draft continues, 0 for an empty row."""

@final
class Drafter:
    """Every running request's cursors, and the call that drafts for a whole batch.

    Thread-safe: a lock makes calls exclusive. Keeps the indexes that its requests use alive.
    """

    def __init__(
        self,
        *,
        min_survival: float = 0.25,
        num_threads: int = 1,
        policy: str = "longest",
        without: Sequence[str] = (),
    ) -> None:
        """Make a drafter without requests.

        Args:
            min_survival: a row ends before the first token whose probability of being accepted together with all
                before it is below this; from 0 (draft to the horizon) to 1.
            num_threads: threads that share a step of 64 requests or more, the caller included, >= 1; drafts do not
                depend on it.
            policy: "blend" (doc/policy.md) learns from accept outcomes which source and context to trust; "longest"
                follows the longest match of history or of the group, whichever promises more, and learns only how
                much its promises are worth.
            without: ingredients of "blend" to leave out: shared, mixing, calibration, blending, sparse,
                rejoin.

        Raises:
            InvalidArgument: an argument is out of range or unknown.
        """

    def set_min_survival(self, min_survival: float) -> None:
        """Change `min_survival`, from the next step on.

        Raises:
            InvalidArgument: it is not from 0 to 1.
        """

    def calibration(self) -> Float32Array:
        """Return what was learned from accept outcomes, to be saved with the run: float32, shape (n,).

        "longest" learns how much of what it promises comes true (`csrc/correction.h`); "blend" a good deal more.
        """

    def restore(self, calibration: Float32Array) -> None:
        """Go on from what `calibration()` returned.

        Raises:
            InvalidArgument: it is malformed, of another version or of another policy.
        """

    def open(
        self,
        live: LiveIndex,
        response_token_ids: Int32Array | None = None,
        *,
        history: FrozenIndex | None = None,
    ) -> int:
        """Start a request as a new sequence of `live` and return its handle.

        Args:
            live: the group's index, which holds the prompt.
            response_token_ids: int32, what was generated so far (a resumed request).
            history: the prompt's frozen index if it is there already.

        Raises:
            InvalidArgument: `response_token_ids` is malformed.
            ResourceExhausted: `live` has no room.
        """

    def set_history(self, request: int, history: FrozenIndex | None) -> None:
        """Give or replace the request's frozen index: drafts are as if it had been there from the start.

        Raises:
            NotFound: `request` is unknown or closed.
        """

    def close(self, request: int) -> None:
        """End the request; its text keeps serving the group in the live index.

        Raises:
            NotFound: `request` is unknown or closed.
        """

    def length(self, request: int) -> int:
        """Return the number of response tokens known so far.

        Raises:
            NotFound: `request` is unknown or closed.
        """

    def step(
        self,
        requests: Int32Array,
        new_token_ids: Int32Array,
        offsets: Int32Array,
        horizons: Int32Array,
        *,
        budget: int = -1,
        costs: tuple[Int32Array, Float32Array] | None = None,
    ) -> DraftBatch:
        """Append what the engine emitted for each request, then draft for all of them.

        All rows are appended before any is drafted, so the order of rows does not matter to siblings. A request
        that is not named keeps its state. Where a live index has no room left, the request goes on with its
        history alone (`stats()["live_dropped"]`).

        Args:
            requests: int32, shape (b,): handles, each at most once.
            new_token_ids: int32, shape (t,): row i's newly emitted tokens are `[offsets[i]:offsets[i + 1]]`; none
                for a request that emitted nothing.
            offsets: int32, shape (b + 1,).
            horizons: int32, shape (b,): most tokens to draft for each request, >= 0.
            budget: most tokens to draft for the batch; goes to those most likely to be accepted. -1 for no bound.
            costs: what the next engine step takes: numbers of draft tokens of the whole batch, int32, shape (m,),
                rising from 0, and the seconds for each, float32, shape (m,), > 0; linear in between and beyond. Only
                as many tokens are drafted as make (rows + expected accepted tokens) / seconds greatest. None: the
                budget alone bounds.

        Raises:
            InvalidArgument: an argument is malformed. Nothing has changed then.
            NotFound: a handle is unknown or closed. Nothing has changed then.
        """

    def stats(self) -> dict[str, Int64Array]:
        """Return counts since the drafter was made.

        `drafted` and `accepted`, shape (4, positions): tokens by `SOURCE_*` and position in the draft, counted when
        the next `step` brings the request's verified tokens. `steps`, shape (1,): requests x steps that brought
        tokens. `emitted`, shape (1,): tokens brought. `live_dropped`, shape (1,): requests whose live index ran
        out of room.
        """

    @property
    def num_requests(self) -> int:
        """Requests that are open."""
    @property
    def nbytes(self) -> int:
        """Bytes of the drafter itself, indexes not counted."""

def time_drafts(
    history: FrozenIndex, token_ids: Int32Array, offsets: Int64Array, *, horizon: int
) -> npt.NDArray[np.float64]:
    """Replay responses as requests side by side and return the seconds that each advance and draft took.

    For `redraft bench index`: the clock stops inside the core, where a call takes less than Python's overhead.

    Args:
        token_ids: int32, shape (n,): the responses.
        offsets: int64, shape (m + 1,).
        horizon: tokens to draft each time, > 0.
    """
