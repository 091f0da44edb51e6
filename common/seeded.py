"""Sums of seeded ciphertexts, which are as short as one of them: what was drawn from seeds is never added by the coordinator.

A symmetric upload's ciphertext is its first polynomial and the seed from which the second one follows. The second
polynomial of a sum is the sum of what all seeds give, so the seeds stand for it: 64 bytes for each upload instead of
8 N bytes for all. The coordinator adds first polynomials modulo the prime, without SEAL; who opens draws the rest.
Decision 0021.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from common.ckks import Scratch, context
from common.errors import CorruptError
from common.framing import frames
from common.parameters import CKKSParameters
from common.polynomials import Words, add_modulo, coefficients_at, data_prime

SEED_LENGTH = 64
"""Of SEAL's generator, at the end of a seeded ciphertext."""
Seeds = NDArray[np.uint8]


@dataclass(frozen=True)
class Form:
    """How seeded ciphertexts of some parameters lie in bytes: head, first polynomial, `between`, seed."""

    head: bytes
    between: bytes
    length: int

    @property
    def polynomial(self) -> slice:
        """Where the first polynomial is: 8 N bytes."""
        return slice(len(self.head), self.length - SEED_LENGTH - len(self.between))

    @property
    def empty(self) -> bytes:
        """One whose first polynomial is zero, as is its seed."""
        return self.head + bytes(self.polynomial.stop - self.polynomial.start) + self.between + bytes(SEED_LENGTH)

    def require(self, item: memoryview) -> None:
        """Compare what never changes in a seeded ciphertext of the right length.

        Raises:
            CorruptError: framed differently.
        """
        if item[: len(self.head)] != self.head or item[self.polynomial.stop : -SEED_LENGTH] != self.between:
            raise CorruptError(
                "a ciphertext is not framed as those of the agreed parameters are; it was damaged, or its maker does not "
                "follow the protocol"
            )


@lru_cache(maxsize=8)
def form(parameters: CKKSParameters) -> Form:
    """The form of the shortest items that are admitted (`common.framing`)."""
    length, frame = min(frames(parameters).items())
    item = np.zeros(length, np.uint8)
    item[frame.index] = np.frombuffer(frame.fixed, np.uint8)
    whole = item.tobytes()
    start = coefficients_at(whole, parameters)
    return Form(whole[:start], whole[start + 8 * parameters.ring_degree : -SEED_LENGTH], length)


@dataclass(frozen=True)
class Sum:
    """Uploads added so far.

    Attributes:
        first: first polynomials, uint64 below the prime, shape (ciphertexts, N).
        seeds: of each upload, uint8, shape (ciphertexts, 64).
    """

    first: Words
    seeds: tuple[Seeds, ...]


class SeededAdder:
    """Sums of seeded ciphertexts, by parameters alone; see `common.adding.Adder`."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self._form, self._prime = form(parameters), data_prime(parameters)
        self._sum: Sum | None = None

    def load(self, payload: memoryview, item_length: int) -> Sum:
        """See `Adder.load`."""
        if item_length != self._form.length or not payload or len(payload) % item_length:
            raise CorruptError(
                f"{len(payload)} bytes in ciphertexts of {item_length}, expected seeded ones of {self._form.length} bytes"
            )
        for at in range(0, len(payload), item_length):
            self._form.require(payload[at : at + item_length])
        items = np.frombuffer(payload, np.uint8).reshape(-1, item_length)
        # A copy, which lies in memory as the processor likes it: saved, coefficients begin at an odd byte.
        first = items[:, self._form.polynomial].copy().view("<u8")
        if first.max() >= self._prime:
            raise CorruptError("a ciphertext's coefficient is beyond the prime; its maker does not follow the protocol")
        seeds = items[:, -SEED_LENGTH:].copy()
        if self._sum is None:
            return Sum(first, (seeds,))
        if len(first) != len(self._sum.first):
            raise CorruptError(f"an upload of {len(first)} ciphertexts among uploads of {len(self._sum.first)}")
        add_modulo(first, self._sum.first, self._prime)
        return Sum(first, (*self._sum.seeds, seeds))

    def add(self, loaded: Sum) -> None:
        """See `Adder.add`."""
        self._sum = loaded

    def total(self) -> list[bytes]:
        """See `Adder.total`: each a seeded ciphertext and the seeds of the other uploads, which come in no order of time."""
        if self._sum is None:
            return []
        ordered = sorted(seeds.tobytes() for seeds in self._sum.seeds)
        return [
            b"".join([self._form.head, first.tobytes(), self._form.between,
                      *(seeds[i * SEED_LENGTH : (i + 1) * SEED_LENGTH] for seeds in ordered)])
            for i, first in enumerate(self._sum.first)
        ]  # fmt: skip


class Expander:
    """Second polynomials of sums, from their seeds."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self._parameters, self._form = parameters, form(parameters)
        self._evaluator = seal.Evaluator(context(parameters))
        self._drawn = seal.Ciphertext()
        # Holds a seeded ciphertext without a first polynomial, of which only the seed is written.
        self._blank = Scratch()
        self._blank.fill(self._drawn, parameters, self._form.empty)
        self._known: dict[bytes, Any] = {}

    def expect(self, payload: memoryview) -> None:
        """Draw ahead what an own upload's seeds give, of seeded ciphertexts back to back, while its sum is waited for."""
        self._known = {
            bytes(seed): self._draw(seal.Ciphertext(), seed)
            for at in range(self._form.length, len(payload) + 1, self._form.length)
            for seed in [payload[at - SEED_LENGTH : at]]
        }

    def split(self, item: memoryview) -> tuple[memoryview, Any]:
        """The first polynomial of a sum's item, 8 N bytes; a ciphertext whose first is zero and whose second what all seeds give.

        Raises:
            CorruptError: no sum of seeded ciphertexts. How many there may be is checked where blobs are (`common.wire`).
        """
        length = self._form.length
        if len(item) < length or (len(item) - length) % SEED_LENGTH:
            raise CorruptError(
                f"{len(item)} bytes are no sum of ciphertexts of {length} bytes, {SEED_LENGTH} more for each"
            )
        self._form.require(item[:length])
        seeds = [bytes(item[at - SEED_LENGTH : at]) for at in range(length, len(item) + 1, SEED_LENGTH)]
        seeds.sort(key=self._known.__contains__)
        total = self._draw(seal.Ciphertext(), seeds[0])
        for seed in seeds[1:]:
            self._evaluator.add_inplace(total, self._known.get(seed) or self._draw(self._drawn, seed))
        return item[self._form.polynomial], total

    def _draw(self, into: Any, seed: bytes | memoryview) -> Any:
        return self._blank.refill(into, self._parameters, seed, self._form.length - SEED_LENGTH)
