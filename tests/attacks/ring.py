"""Arithmetic of RLWE in numpy alone, for attackers and the institutions they attack: nothing of the product, no SEAL.

Polynomials modulo x^N + 1 and the largest 60-bit prime that is 1 modulo 2 N: the numbers of the product's default.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

DEGREE = 4096
PRIME = 2**60 - 2**14 + 1
"""CoeffModulus.Create(4096, [60]) of SEAL; `test_oracle` compares."""
DEVIATION = 3.24
WIDEST = 21
"""Largest magnitude of one coefficient of an error: SEAL adds 21 coins and subtracts 21."""
_LIMB = 30
_TWIST = np.exp(1j * np.pi * np.arange(DEGREE) / DEGREE)


def ternary(random: np.random.Generator) -> Ints:
    """A secret key: -1, 0 and 1, equally often."""
    return random.integers(-1, 2, DEGREE)


def errors(random: np.random.Generator) -> Ints:
    """An error, centred binomial."""
    return random.binomial(WIDEST, 0.5, DEGREE) - random.binomial(WIDEST, 0.5, DEGREE)


def drawn(seed: bytes) -> Ints:
    """The polynomial that a seed stands for, uniform but for 2^-46."""
    words = np.frombuffer(hashlib.shake_256(seed).digest(8 * DEGREE), "<u8")
    return (words % np.uint64(PRIME)).astype(np.int64)


def centred(words: Ints) -> Ints:
    """Residues from 0 to q - 1 as numbers around zero."""
    out: Ints = np.where(words > PRIME // 2, words - PRIME, words)
    return out


def times(words: Ints, small: Ints) -> Ints:
    """Product of a polynomial of residues with one of tiny numbers, exact: limbs of 30 bits by a complex FFT.

    Values of the product of limbs stay below 2^43, so that float64's error stays far below a half.
    """
    limbs = (words & (2**_LIMB - 1)) + 1j * (words >> _LIMB)
    product = np.fft.ifft(np.fft.fft(limbs * _TWIST) * np.fft.fft(small * _TWIST)) / _TWIST
    low, high = np.rint(product.real).astype(np.int64), np.rint(product.imag).astype(np.int64)
    # high 2^30 = above 2^60 + below 2^30, and 2^60 is a small number modulo the prime.
    above, below = high >> _LIMB, high & (2**_LIMB - 1)
    return (low + above * (2 ** (2 * _LIMB) - PRIME) + (below << _LIMB)) % PRIME


def divided(numerator: Ints, denominator: Ints) -> Ints:
    """The polynomial that times `denominator` is `numerator`, around zero: one division a point of the transform."""
    points = zip(_transformed(numerator), _transformed(denominator), strict=True)
    quotient = np.array([a * pow(b, -1, PRIME) % PRIME for a, b in points], dtype=object)
    return centred(_back(quotient).astype(np.int64))


def as_seal_saves(words: Ints) -> NDArray[np.uint64]:
    """A polynomial in SEAL's transform domain: values at odd powers of its root of unity, in bit-reversed order."""
    points: NDArray[np.uint64] = _transformed(words % PRIME)[_reversed()].astype(np.uint64)
    return points


def of_seals_words(points: NDArray[np.uint64]) -> Ints:
    """The inverse of `as_seal_saves`: coefficients from 0 to q - 1."""
    coefficients: Ints = _back(points.astype(object)[_reversed()]).astype(np.int64)
    return coefficients


def _reversed() -> Ints:
    """Places in bit-reversed order."""
    bits = DEGREE.bit_length() - 1
    return np.array([int(f"{place:0{bits}b}"[::-1], 2) for place in range(DEGREE)])


@cache
def _root() -> int:
    """The smallest primitive 2 N-th root of unity, which is SEAL's."""
    candidates = (pow(base, (PRIME - 1) // (2 * DEGREE), PRIME) for base in range(2, 1000))
    root = next(candidate for candidate in candidates if pow(candidate, DEGREE, PRIME) == PRIME - 1)
    return min(pow(root, odd, PRIME) for odd in range(1, 2 * DEGREE, 2))


def _powers(base: int) -> NDArray[np.object_]:
    out = [1]
    for _ in range(DEGREE - 1):
        out.append(out[-1] * base % PRIME)
    return np.array(out, dtype=object)


def _transformed(words: Ints) -> NDArray[np.object_]:
    return _fourier(words.astype(object) * _powers(_root()) % PRIME, pow(_root(), 2, PRIME))


def _back(points: NDArray[np.object_]) -> NDArray[np.object_]:
    coefficients = _fourier(points, pow(_root(), -2, PRIME)) * pow(DEGREE, -1, PRIME)
    return coefficients * _powers(pow(_root(), -1, PRIME)) % PRIME


def _fourier(values: NDArray[np.object_], root: int) -> NDArray[np.object_]:
    """Discrete Fourier transform in the prime field, by even and odd places (Cooley and Tukey 1965)."""
    if values.size == 1:
        return values
    even, odd = (_fourier(values[start::2], root * root % PRIME) for start in (0, 1))
    twiddles, power = [], 1
    for _ in range(odd.size):
        twiddles.append(power)
        power = power * root % PRIME
    turned = odd * np.array(twiddles, dtype=object) % PRIME
    return np.concatenate([even + turned, even - turned]) % PRIME
