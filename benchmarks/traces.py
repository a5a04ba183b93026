"""Recorded rollouts: reading them, tokenising them, and cutting them into epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from redraft.benchmarks.rows import Row, rows_of
from redraft.errors import InvalidArgument
from redraft.rollout import mark_context

Int32Array = npt.NDArray[np.int32]
Span = tuple[int, int]


@dataclass(frozen=True)
class Response:
    """One recorded response; of a conversation all turns and what came between them, as it is published."""

    prompt: int
    """Number of its prompt, counted in the order of the file."""
    epoch: int
    sample: int
    token_ids: Int32Array
    """int32, shape (n,), n > 0: the response and the end token."""
    reward: float
    spans: tuple[Span, ...] = ()
    """What the policy wrote of a conversation, half-open; empty: all of it."""

    @property
    def turns(self) -> tuple[Span, ...]:
        """The spans that the policy wrote, one at least."""
        return self.spans or ((0, self.token_ids.size),)

    @property
    def published(self) -> Int32Array:
        """The ids as indexes hold them: what the policy did not write is marked (`redraft.rollout.mark_context`)."""
        if not self.spans:
            return self.token_ids
        context = np.ones(self.token_ids.size, np.bool_)
        for begin, end in self.spans:
            context[begin:end] = False
        return mark_context(self.token_ids, context)

    def known(self, turn: int) -> Int32Array:
        """Return what a turn's request knows when its first token is there, beyond the prompt that was published."""
        return self.token_ids[: self.turns[turn][0] + 1]


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
        """Return the trace as options ask; see `cut`."""
        kept = cut([(r.prompt, r.epoch) for r in self.responses], samples_per_epoch, epochs)
        responses = [replace(self.responses[i], epoch=epoch) for i, epoch in kept]
        return Trace(self.name, self.prompts, responses)

    @property
    def largest_group(self) -> int:
        """Most responses to one prompt in one epoch."""
        counts: dict[tuple[int, int], int] = {}
        for response in self.responses:
            counts[response.prompt, response.epoch] = counts.get((response.prompt, response.epoch), 0) + 1
        return max(counts.values(), default=0)


def cut(
    places: Sequence[tuple[int, int]], samples_per_epoch: int | None, epochs: int | None
) -> list[tuple[int, int]]:
    """Return which responses stay, and the epoch of each.

    Args:
        places: prompt and epoch of each response.
        samples_per_epoch: a trace of one epoch becomes epochs of that many samples a prompt, in their order; of one
            with several, the first so many samples of each prompt and epoch stay. None: as it is.
        epochs: how many epochs stay, the first ones; None for all.
    """
    several = len({epoch for _, epoch in places}) > 1
    met: dict[tuple[int, int], int] = {}
    kept = []
    for i, (prompt, epoch) in enumerate(places):
        place = met.get((prompt, epoch), 0)
        met[prompt, epoch] = place + 1
        if samples_per_epoch is None:
            kept.append((i, epoch))
        elif not several:
            kept.append((i, place // samples_per_epoch))
        elif place < samples_per_epoch:
            kept.append((i, epoch))
    numbers = set(sorted({epoch for _, epoch in kept})[:epochs])
    return [(i, epoch) for i, epoch in kept if epoch in numbers]


def read(
    path: Path,
    tokenizer: str | None,
    most_tokens: int,
    samples_per_epoch: int | None = None,
    epochs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Trace:
    """Read a file of rollouts; what the options leave out is not tokenised.

    Args:
        path: see `rows_of`.
        tokenizer: a Hugging Face folder or name for text; None for SmolLM2's.
        most_tokens: longer responses are cut, > 0.
        samples_per_epoch, epochs: see `cut`.
        progress: called with numbers of tokens as they come out of the tokenizer.

    Raises:
        InvalidArgument: a row is not of that form, or there is none.
        NotFound: there is no such tokenizer.
    """
    from redraft.benchmarks.tokens import Tokens

    rows = list(rows_of(path))
    if not rows:
        raise InvalidArgument(f"{path.name}: holds no rows")
    numbers: dict[str, int] = {}
    firsts: list[Row] = []
    for row in rows:
        if row.key not in numbers:
            numbers[row.key] = len(firsts)
            firsts.append(row)
    kept = cut([(numbers[row.key], row.epoch) for row in rows], samples_per_epoch, epochs)
    tokens = Tokens(tokenizer, progress)
    prompts = tokens.of([row.prompt for row in firsts], end=False)
    # Everything at once, as the tokenizer works on many texts side by side.
    pieces = tokens.of([piece for i, _ in kept for piece in _pieces(rows[i])], end=True)
    responses = []
    at = 0
    for i, epoch in kept:
        row = rows[i]
        own = pieces[at : at + len(_pieces(row))]
        at += len(own)
        sizes = np.cumsum([0, *(piece.size for piece in own)]).tolist()
        spans: tuple[Span, ...] = ()
        if row.turns:
            both = [(sizes[2 * n + 1], min(sizes[2 * n + 2], most_tokens)) for n in range(len(row.turns))]
            spans = tuple((begin, end) for begin, end in both if begin < end)
            if not spans:
                continue
        ids = np.concatenate(own)[: spans[-1][1] if spans else most_tokens]
        if ids.size:
            responses.append(Response(numbers[row.key], epoch, row.sample, ids, row.reward, spans))
    if not responses:
        raise InvalidArgument(f"{path.name}: holds no response with a token")
    return Trace(path.name.split(".")[0], prompts, responses)


def _pieces(row: Row) -> list[str | Int32Array]:
    """Return the texts of a row in their order: the response, or context and response of each turn."""
    return [piece for turn in row.turns for piece in turn] if row.turns else [row.response]
