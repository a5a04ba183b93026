"""What the indexes must answer, by brute force: short, slow and readable.

Contexts are tuples of token ids; `START` stands before a response's first token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

START = -1
Context = tuple[int, ...]


class FrozenReference:
    """Twin of `redraft.FrozenIndex`: looks at every position of every response."""

    def __init__(self, responses: Sequence[Sequence[int]], weights: Sequence[float] | None = None) -> None:
        self.texts = [(START, *response) for response in responses]
        self.weights = [1.0] * len(responses) if weights is None else list(weights)

    def occurrences(self, context: Context) -> list[tuple[int, int]]:
        """Return (response, position just after) of each occurrence."""
        n = len(context)
        return [
            (i, end)
            for i, text in enumerate(self.texts)
            for end in range(n, len(text) + 1)
            if text[end - n : end] == context
        ]

    def count(self, context: Context) -> int:
        if not context:
            return sum(len(text) - 1 for text in self.texts)
        return len(self.occurrences(context))

    def weight(self, context: Context) -> np.float32:
        if not context:
            total = sum((len(text) - 1) * w for text, w in zip(self.texts, self.weights, strict=True))
            return np.float32(total)
        return np.float32(sum(self.weights[i] for i, _ in self.occurrences(context)))

    def match_length(self, context: Context) -> int:
        return next(n for n in range(len(context), -1, -1) if self.occurrences(context[len(context) - n :]))

    def continuations(self, context: Context) -> dict[int, np.float32]:
        """Return token -> weight of what follows the context."""
        ends = self.occurrences(context)
        tokens = {self.texts[i][end] for i, end in ends if end < len(self.texts[i])}
        return {token: self.weight((*context, token)) for token in tokens}

    def continuation(self, context: Context, horizon: int) -> tuple[list[int], list[np.float32]]:
        """Return the heaviest tokens one after the other, and each one's share of its context's weight."""
        n = self.match_length(context)
        while n > 0 and not self.continuations(context[len(context) - n :]):
            n -= 1
        at = context[len(context) - n :]
        tokens: list[int] = []
        shares: list[np.float32] = []
        while n > 0 and len(tokens) < horizon and (following := self.continuations(at)):
            token = min(following, key=lambda t: (-following[t], t))
            shares.append(following[token] / self.weight(at))
            tokens.append(token)
            at = (*at, token)
        return tokens, shares


class LiveReference:
    """Twin of `redraft.LiveIndex`, with the counting rule spelled out over every single context.

    A class is a set of contexts with the same end positions. An appended token counts for the classes that the
    `count_depth` longest classes of the context before it lead to; among equally counted continuations of a
    context, the one that got there first stays the best.
    """

    def __init__(self, prompt: Sequence[int], count_depth: int = 8) -> None:
        self.count_depth = count_depth
        self.ends: dict[Context, set[Context]] = {
            (): {()}
        }  # context -> whole texts up to each occurrence's end
        self.counts: dict[Context, int] = {}
        self.best: dict[Context, int] = {}
        self.num_tokens = 0
        self.prompt: Context = ()
        self.prompt = self._grow((), prompt)
        self.sequences: list[Context] = []

    def add_sequence(self, tokens: Sequence[int] = ()) -> int:
        self.sequences.append(self._grow(self.prompt, tokens))
        return len(self.sequences) - 1

    def append(self, sequence: int, tokens: Sequence[int]) -> None:
        self.sequences[sequence] = self._grow(self.sequences[sequence], tokens)

    def _suffixes(self, text: Context) -> list[Context]:
        return [text[i:] for i in range(len(text) + 1)]

    def _grow(self, text: Context, tokens: Sequence[int]) -> Context:
        for token in tokens:
            self._append(text, token)
            text = (*text, token)
            self.num_tokens += 1
        return text

    def _append(self, text: Context, token: int) -> None:
        grown = (*text, token)
        for suffix in self._suffixes(grown):
            self.ends.setdefault(suffix, set()).add(grown)
        before = self._suffixes(text)  # longest first
        classes: list[set[Context]] = []
        for suffix in before:
            if self.ends[suffix] not in classes:
                classes.append(self.ends[suffix])
        counted = [self.ends[(*s, token)] for s in before if self.ends[s] in classes[: self.count_depth]]
        for suffix in self._suffixes(grown):
            if suffix and self.ends[suffix] in counted:
                self.counts[suffix] = self.counts.get(suffix, 0) + 1
        for suffix in before:
            best = self.best.setdefault(suffix, token)
            if self.ends[suffix] in classes[: self.count_depth] and self._count(suffix, token) > self._count(
                suffix, best
            ):
                self.best[suffix] = token

    def _count(self, context: Context, token: int) -> int:
        return self.counts.get((*context, token), 0)

    def match_length(self, context: Context) -> int:
        return next(n for n in range(len(context), -1, -1) if context[len(context) - n :] in self.ends)

    def count(self, context: Context) -> int:
        return self.counts.get(context, 0) if context else self.num_tokens

    def continuation(self, context: Context, horizon: int) -> tuple[list[int], list[np.float32]]:
        n = self.match_length(context)
        while n > 0 and context[len(context) - n :] not in self.best:
            n -= 1
        at = context[len(context) - n :]
        tokens: list[int] = []
        shares: list[np.float32] = []
        while n > 0 and len(tokens) < horizon and at in self.best:
            token = self.best[at]
            shares.append(np.float32(self._count(at, token) / self.count(at)))
            tokens.append(token)
            at = (*at, token)
        return tokens, shares
