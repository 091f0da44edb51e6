"""Sums of seeded ciphertexts, which are as short as one of them: what was drawn from seeds is never added by the coordinator.

A symmetric upload's ciphertext is its first polynomial and the seed from which the second one follows. The second
polynomial of a sum is the sum of what all seeds give, so the seeds stand for it: 64 bytes for each upload instead of
8 N bytes for all. The coordinator adds first polynomials modulo the prime, without SEAL; who opens draws the rest.
Decision 0017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from common.ckks import Scratch, context
from common.errors import CorruptError
from common.framing import frames, load_ciphertext
from common.parameters import CKKSParameters
from common.polynomials import Words, add_modulo, coefficients_at, data_prime

SEED_LENGTH = 64
"""Of SEAL's generator, at the end of a seeded ciphertext."""
Seeds = NDArray[np.uint8]


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
        self._parameters = parameters
        self._prime = data_prime(parameters)
        self._sum: Sum | None = None
        self._template = b""

    def load(self, payload: memoryview, item_length: int) -> Sum:
        """See `Adder.load`."""
        frame = frames(self._parameters).get(item_length)
        if item_length != seeded_length(self._parameters) or frame is None or not payload or len(payload) % item_length:
            raise CorruptError(
                f"{len(payload)} bytes in ciphertexts of {item_length}, expected seeded ones of "
                f"{seeded_length(self._parameters)} bytes"
            )
        items = np.frombuffer(payload, np.uint8).reshape(-1, item_length)
        for item in items:
            frame.require(item.data)
        start = coefficients_at(items[0].data, self._parameters)
        # A copy, which lies in memory as the processor likes it: saved, coefficients begin at an odd byte.
        first = items[:, start : start + 8 * self._parameters.ring_degree].copy().view("<u8")
        if first.max() >= self._prime:
            raise CorruptError("a ciphertext's coefficient is beyond the prime; its maker does not follow the protocol")
        seeds = items[:, -SEED_LENGTH:].copy()
        self._template = items[0].tobytes()
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
        start, length = coefficients_at(self._template, self._parameters), 8 * self._parameters.ring_degree
        head, between = self._template[:start], self._template[start + length : -SEED_LENGTH]
        ordered = sorted(seeds.tobytes() for seeds in self._sum.seeds)
        return [
            b"".join([head, first.tobytes(), between, *(s[i * SEED_LENGTH : (i + 1) * SEED_LENGTH] for s in ordered)])
            for i, first in enumerate(self._sum.first)
        ]


class Expander:
    """Sums as SEAL's ciphertexts of two polynomials."""

    def __init__(self, parameters: CKKSParameters) -> None:
        self._parameters = parameters
        self._evaluator = seal.Evaluator(context(parameters))
        self._scratch, self._blank, self._drawn = Scratch(), Scratch(), seal.Ciphertext()
        self._filled = False

    def load(self, item: bytes | memoryview) -> Any:
        """The ciphertext of a sum's item: its second polynomial is the sum of what all seeds give.

        Raises:
            CorruptError: no sum of seeded ciphertexts. How many there may be is checked where blobs are (`common.wire`).
        """
        length = seeded_length(self._parameters)
        others, rest = divmod(len(item) - length, SEED_LENGTH)
        if rest or others < 0:
            raise CorruptError(
                f"{len(item)} bytes are no sum of ciphertexts of {length} bytes, {SEED_LENGTH} more for each"
            )
        total = load_ciphertext(self._scratch, self._parameters, item[:length])
        if others and not self._filled:
            self._fill(bytearray(item[:length]))
        for at in range(length, len(item), SEED_LENGTH):
            seed = item[at : at + SEED_LENGTH]
            drawn = self._blank.refill(self._drawn, self._parameters, seed, length - SEED_LENGTH)
            self._evaluator.add_inplace(total, drawn)
        return total

    def _fill(self, item: bytearray) -> None:
        """Once: a ciphertext whose first polynomial is zero, so that only seeds have to be written for the others."""
        start, size = coefficients_at(item, self._parameters), 8 * self._parameters.ring_degree
        item[start : start + size] = bytes(size)
        self._blank.fill(self._drawn, self._parameters, bytes(item))
        self._filled = True


def seeded_length(parameters: CKKSParameters) -> int:
    """Bytes of a seeded ciphertext: the shortest that is admitted."""
    return min(frames(parameters))
