"""Which tokenizer a run's token ids belong to, so that responses of another model are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import xxhash

from redraft.errors import InvalidArgument


class HasVocabulary(Protocol):
    """The part of a tokenizer that is needed here: Hugging Face's tokenizers have it."""

    def get_vocab(self) -> Mapping[str, int]:
        """Return token -> id."""
        ...


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Size and fingerprint of a vocabulary; two equal ones use token ids alike."""

    size: int = 0
    """Every token id is below it; 0 = unknown."""
    fingerprint: str = ""
    """Digest of the tokenizer; empty = unknown."""

    def __post_init__(self) -> None:
        if not 0 <= self.size < 2**31:
            raise InvalidArgument(f"size: must be in [0, 2**31), got {self.size}")
        if len(self.fingerprint) > 200:
            raise InvalidArgument("fingerprint: must have at most 200 characters")

    @classmethod
    def from_tokenizer(cls, tokenizer: HasVocabulary, *, size: int = 0) -> Vocabulary:
        """Return the vocabulary of a tokenizer, the same in every process that loads it.

        Args:
            tokenizer: anything with `get_vocab()`, such as a Hugging Face tokenizer.
            size: bound on token ids when it is known to be larger than the tokenizer's (models often pad their
                embedding); 0 takes the tokenizer's largest id + 1.

        Raises:
            InvalidArgument: the tokenizer is empty, or has an id that is not below `size`.
        """
        entries = sorted((token_id, token) for token, token_id in tokenizer.get_vocab().items())
        if not entries:
            raise InvalidArgument("tokenizer: its vocabulary is empty")
        largest = entries[-1][0]
        if size and largest >= size:
            raise InvalidArgument(f"size: the tokenizer has token id {largest}, not below {size}")
        digest = xxhash.xxh3_128()
        for token_id, token in entries:
            digest.update(f"{token_id} {token}\n".encode(errors="surrogatepass"))
        return cls(size=size or largest + 1, fingerprint=digest.hexdigest())

    def contradicts(self, other: Vocabulary) -> str:
        """Return what is known of both and differs ("size", "fingerprint"), or "" when they may be the same."""
        if self.fingerprint and other.fingerprint and self.fingerprint != other.fingerprint:
            return "fingerprint"
        if self.size and other.size and self.size != other.size:
            return "size"
        return ""

    def merged(self, other: Vocabulary) -> Vocabulary:
        """Return what the two say together; they must not contradict each other."""
        return Vocabulary(self.size or other.size, self.fingerprint or other.fingerprint)
