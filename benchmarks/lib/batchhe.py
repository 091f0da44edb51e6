"""AdaptiveBatchHE (Han and Yan, IEEE Internet of Things Journal 11 (6), 2024), the rival of the paper's table 8, re-built.

Numbers are clipped to the largest magnitude of their layer at any institution, shifted to be positive, written with K decimals,
and put side by side into one Paillier plaintext: M bits for what comes before the point and N for what comes behind, each
wide enough for the sum of all institutions. Ciphertexts are added; the shift is taken off the sum. The authors' code is at
github.com/liyan2015/AdaptiveBatchHE; nothing of it is here.

Its other two parts choose for crowds of devices: clusters of clients with similar data, and a key size by what each device can
do. Institutions of equal standing are one cluster with one key. In the rival's favour, against its code: decimals are rounded, not
cut off; the clipping bound is rounded up to a decimal, so that no change is sent as none; layers share ciphertexts; a plaintext is
filled to its last whole number; K is for the caller to choose by validation.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric import rsa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
KEY_BITS = 3072
"""Modulus of 128-bit security; bytes a value hardly depend on it, time does."""
_BOUND_BYTES = 4


@dataclass(frozen=True)
class Encoding:
    """Fixed-point numbers in the plaintexts of a key.

    Attributes:
        institutions: number of summands.
        decimals: K, decimal places.
        key_bits: bits of Paillier's modulus.
    """

    institutions: int
    decimals: int = 4
    key_bits: int = KEY_BITS

    def bound(self, largest: float) -> int:
        """Round the largest magnitude of a layer up to a bound in units of the last decimal place."""
        return math.ceil(largest * 10**self.decimals)

    def widths(self, bound: int) -> tuple[int, int]:
        """Compute M and N, bits of a sum of numbers before and behind the point."""
        before, behind = 2 * bound // 10**self.decimals, 10**self.decimals - 1
        return max(1, (before * self.institutions).bit_length()), (behind * self.institutions).bit_length()

    def per_plaintext(self, bound: int) -> int:
        """Count the numbers in a plaintext, which must be below the modulus."""
        return (self.key_bits - 1) // sum(self.widths(bound))

    def encode(self, values: Floats, bound: int) -> Ints:
        """Round, clip and shift: int64 from 0 to 2 * bound, in units of the last decimal place."""
        return np.clip(np.rint(values * 10**self.decimals), -bound, bound).astype(np.int64) + bound

    def mean(self, sums: Ints, bound: int) -> Floats:
        """Take the shift off sums of all institutions' numbers and divide by their count."""
        mean: Floats = (sums - self.institutions * bound) / (10**self.decimals * self.institutions)
        return mean

    def packed(self, numbers: Ints, bound: int) -> list[int]:
        """Put numbers side by side into plaintexts, the first one lowest."""
        (m, n), count, point = self.widths(bound), self.per_plaintext(bound), 10**self.decimals
        plain = []
        for start in range(0, numbers.size, count):
            whole = 0
            for number in reversed(numbers[start : start + count].tolist()):
                before, behind = divmod(number, point)
                whole = whole << (m + n) | before << n | behind
            plain.append(whole)
        return plain

    def unpacked(self, plain: Sequence[int], count: int, bound: int) -> Ints:
        """Read the sums of numbers out of sums of plaintexts, int64, shape (count,)."""
        (m, n), each, point = self.widths(bound), self.per_plaintext(bound), 10**self.decimals
        found = []
        for whole in plain:
            for place in range(each):
                number = whole >> place * (m + n) & ((1 << (m + n)) - 1)
                found.append((number >> n) * point + (number & ((1 << n) - 1)))
        return np.array(found[:count], dtype=np.int64)

    def ciphertexts(self, counts: Mapping[int, int]) -> int:
        """Count the ciphertexts of one upload; layers whose numbers are equally wide share them.

        Args:
            counts: how many numbers are sent within each bound.
        """
        by_width: dict[int, int] = {}
        for bound, count in counts.items():
            each = self.per_plaintext(bound)
            by_width[each] = by_width.get(each, 0) + count
        return sum(-(-count // each) for each, count in by_width.items())

    def traffic(self, counts: Mapping[int, int], layers: int) -> tuple[int, int]:
        """Bytes up and down of an institution's round: ciphertexts modulo n^2, and a layer's largest magnitude either way."""
        each_way = self.ciphertexts(counts) * 2 * self.key_bits // 8 + _BOUND_BYTES * layers
        return each_way, each_way


class Paillier:
    """Paillier's scheme with g = n + 1, in Python's integers: sums of plaintexts modulo n by products modulo n^2."""

    def __init__(self, key_bits: int = KEY_BITS) -> None:
        numbers = rsa.generate_private_key(public_exponent=65537, key_size=key_bits).private_numbers()
        self.n = numbers.p * numbers.q
        self._square = self.n * self.n
        self._order = math.lcm(numbers.p - 1, numbers.q - 1)
        self._inverse = pow(self._order, -1, self.n)

    def encrypt(self, plain: int) -> int:
        """Encrypt a number of at least 0 and below n."""
        blind = pow(secrets.randbelow(self.n - 1) + 1, self.n, self._square)
        return (1 + plain * self.n) * blind % self._square

    def add(self, one: int, other: int) -> int:
        """Add under encryption."""
        return one * other % self._square

    def decrypt(self, sealed: int) -> int:
        """Decrypt."""
        return (pow(sealed, self._order, self._square) - 1) // self.n * self._inverse % self.n
