"""The capability to add: the coordinator's only one. No key, nothing that opens, no SEAL: words add modulo a prime."""

from __future__ import annotations

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import CorruptError
from dictpfl.common.words import Words, add_modulo

_LARGEST = np.iinfo(np.int32).max


class WordSum:
    """Running sum of uploads' words, modulo the word prime.

    In two steps, so that an upload of several sections is added whole or not at all: `load` may refuse and
    changes nothing, `add` cannot fail. What `load` returned is good for one `add`, at once.
    """

    def __init__(self, prime: int) -> None:
        self._prime = prime
        self._sum: Words | None = None

    def load(self, words: Words) -> Words:
        """Check an upload's words, uint64, shape (n,), and return the total with them, in the same array.

        Raises:
            CorruptError: a word beyond the prime, or another number of words than the others'.
        """
        if words.size and words.max() >= self._prime:
            raise CorruptError("a word is beyond the agreed prime; its maker does not follow the protocol")
        if self._sum is None:
            return words
        if words.size != self._sum.size:
            raise CorruptError(f"an upload of {words.size} words among uploads of {self._sum.size}")
        add_modulo(words, self._sum, self._prime)
        return words

    def add(self, loaded: Words) -> None:
        """Make what `load` returned the running sum."""
        self._sum = loaded

    def total(self) -> Words:
        """Return the sum's words."""
        return np.zeros(0, np.uint64) if self._sum is None else self._sum


class ClearSum:
    """Running sum of sections that cross in clear, int32; in two steps as `WordSum`."""

    def __init__(self) -> None:
        self._sum: Ints | None = None

    def load(self, payload: bytes | memoryview) -> Ints:
        """Check an upload's integers and return the total with them, int64.

        Raises:
            CorruptError: no whole number of integers, another number than the others', or a sum beyond 32 bits.
        """
        try:
            total: Ints = np.frombuffer(payload, dtype="<i4").astype(np.int64)
        except ValueError as error:
            raise CorruptError(f"{len(payload)} bytes are no whole number of 32-bit integers") from error
        if self._sum is not None:
            if total.size != self._sum.size:
                raise CorruptError(f"an upload of {total.size} integers among uploads of {self._sum.size}")
            total = total + self._sum
        if total.size and (total.max() > _LARGEST or total.min() < -_LARGEST):
            raise CorruptError("the sum leaves the agreed integer range; an upload is larger than its digits allow")
        return total

    def add(self, loaded: Ints) -> None:
        """Make what `load` returned the running sum."""
        self._sum = loaded

    def total(self) -> bytes:
        """Return the sum as it travels."""
        return b"" if self._sum is None else self._sum.astype("<i4").tobytes()
