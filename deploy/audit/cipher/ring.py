"""Polynomials modulo x^N + 1 and a prime q, with SEAL's transform, in numpy (section 5).

A product with a constant w below q needs no division (Shoup): with w' = floor(w 2^64 / q), x w - floor(x w' / 2^64) q
is x w modulo q, or q more.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.arrays import Ints
from dictpfl.deploy.audit.formats.streams import Words

_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
"""Bases that decide primality of every number below 2^64 (Sorenson and Webster 2015)."""


def is_prime(n: int) -> bool:
    """Tell whether a number below 2^64 is prime (Miller and Rabin)."""
    if n < 2 or any(n % w == 0 for w in _WITNESSES):  # noqa: PLR2004 -- the first prime
        return n in _WITNESSES
    twos = (n - 1 & 1 - n).bit_length() - 1
    return all(_passes(n, twos, w) for w in _WITNESSES)


def _passes(n: int, twos: int, witness: int) -> bool:
    x = pow(witness, n - 1 >> twos, n)
    if x in {1, n - 1}:
        return True
    for _ in range(twos - 1):
        x = x * x % n
        if x == n - 1:
            return True
    return False


def ring_prime(degree: int, bits: int) -> int:
    """Find q: the largest prime of so many bits that is 1 modulo 2 N."""
    q = ((1 << bits) - 1) // (2 * degree) * (2 * degree) + 1
    while q >= 1 << bits or not is_prime(q):
        q -= 2 * degree
    return q


def wire_prime(bits: int) -> int:
    """Find p: the largest prime below 2^bits."""
    p = (1 << bits) - 1
    while not is_prime(p):
        p -= 1
    return p


class Constant:
    """Constant factor, or an array of them, modulo q."""

    def __init__(self, factors: Any, q: int) -> None:
        shape = np.shape(factors)
        flat = [int(w) for w in np.asarray(factors, dtype=object).reshape(-1)]
        self._factors = np.array(flat, dtype=np.uint64).reshape(shape)
        self._quotients = np.array([(w << 64) // q for w in flat], dtype=np.uint64).reshape(shape)
        self._q = np.uint64(q)

    def __getitem__(self, index: Any) -> Constant:
        """Take some of the factors."""
        part = object.__new__(Constant)
        part._factors, part._quotients, part._q = self._factors[index], self._quotients[index], self._q
        return part

    def times(self, x: Words) -> Words:
        """Multiply residues modulo q, elementwise."""
        rest: Words = x * self._factors - _high(x, self._quotients) * self._q
        reduced: Words = np.minimum(rest, rest - self._q)
        return reduced


def _high(x: Words, y: Words) -> Words:
    """Upper 64 bits of products of two words of 64 bits."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    x1, x0, y1, y0 = x >> half, x & low, y >> half, y & low
    middle = x1 * y0 + (x0 * y0 >> half)
    other = x0 * y1 + (middle & low)
    high: Words = x1 * y1 + (middle >> half) + (other >> half)
    return high


class Ring:
    """Ring of polynomials with N coefficients modulo q.

    Attributes:
        degree: N.
        q: the prime.
    """

    def __init__(self, degree: int, q: int) -> None:
        self.degree, self.q = degree, q

    @cached_property
    def root(self) -> int:
        """Smallest psi with psi^N = -1."""
        n, q = self.degree, self.q
        psi = next(r for g in range(2, q) if pow(r := pow(g, (q - 1) // (2 * n), q), n, q) == q - 1)
        powers, square = [psi], psi * psi % q
        for _ in range(n - 1):
            powers.append(powers[-1] * square % q)
        return min(powers)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Numbers with their bits turned round."""
        bits = self.degree.bit_length() - 1
        return np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(self.degree)])

    def _powers(self, base: int) -> Constant:
        powers = [1]
        for _ in range(self.degree - 1):
            powers.append(powers[-1] * base % self.q)
        return Constant(np.array(powers, dtype=object)[self._order], self.q)

    @cached_property
    def _forward(self) -> Constant:
        return self._powers(self.root)

    @cached_property
    def _backward(self) -> Constant:
        return self._powers(pow(self.root, -1, self.q))

    @cached_property
    def _size(self) -> Constant:
        return Constant(pow(self.degree, -1, self.q), self.q)

    def added(self, x: Words, y: Words) -> Words:
        """Add residues modulo q."""
        total: Words = x + y
        reduced: Words = np.minimum(total, total - np.uint64(self.q))
        return reduced

    def subtracted(self, x: Words, y: Words) -> Words:
        """Subtract residues modulo q."""
        rest: Words = x - y
        reduced: Words = np.minimum(rest, rest + np.uint64(self.q))
        return reduced

    def transformed(self, coefficients: Words) -> Words:
        """Transform coefficients, shape (..., N), into SEAL's order of values."""
        x, m = coefficients.reshape(-1, self.degree), 1
        while m < self.degree:
            pairs = x.reshape(len(x), m, 2, -1)
            left, right = pairs[:, :, 0], self._forward[m : 2 * m, None].times(pairs[:, :, 1])
            x = np.stack([self.added(left, right), self.subtracted(left, right)], axis=2).reshape(len(x), -1)
            m *= 2
        return x.reshape(coefficients.shape)

    def coefficients(self, values: Words) -> Words:
        """Invert `transformed`."""
        x, m = values.reshape(-1, self.degree), self.degree // 2
        while m:
            pairs = x.reshape(len(x), m, 2, -1)
            left, right = pairs[:, :, 0], pairs[:, :, 1]
            rest = self._backward[m : 2 * m, None].times(self.subtracted(left, right))
            x = np.stack([self.added(left, right), rest], axis=2).reshape(len(x), -1)
            m //= 2
        return self._size.times(x).reshape(values.shape)

    def centred(self, residues: Words) -> Ints:
        """Turn residues into the nearest integers to zero, int64."""
        signed = residues.astype(np.int64)
        return np.where(signed > self.q // 2, signed - self.q, signed)

    def residues(self, integers: Ints) -> Words:
        """Turn integers into residues modulo q."""
        return np.mod(integers, np.int64(self.q)).astype(np.uint64)
