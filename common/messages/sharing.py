"""Secret sharing: 32 bytes in shares, of which a threshold gives them back and fewer tell nothing (Shamir 1979).

The field is that of the library, GF(2^128), so a secret is shared in two halves. The library splits. Shares are put together here: who
unmasks a sum does so for every upload in it, from the same places each time, and the library works out the weight of each place
anew for each half (50 ms a secret for 29 shares, 1 s a round for 30 institutions).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from operator import xor

from Crypto.Protocol.SecretSharing import Shamir

from dictpfl.common.protection import quorum

SECRET_BYTES = 32
COMMITMENT_BYTES = 16
_HALF = 16
_BITS = 8 * _HALF
_POLYNOMIAL = (1 << _BITS) + 0b10000111
"""Polynomial of the field, bit n for x^n: x^128 + x^7 + x^2 + x + 1."""


def threshold(holders: int) -> int:
    """Number of shares that give the secret back: more than two thirds of the holders and the maker together, or all holders."""
    return min(holders, quorum(holders + 1))


def split(secret: bytes, holders: int) -> list[bytes]:
    """Split a secret of 32 bytes into one share of 32 bytes for each holder, in order."""
    halves = [_split(secret[:_HALF], holders), _split(secret[_HALF:], holders)]
    return [first + second for first, second in zip(*halves, strict=True)]


def _split(half: bytes, holders: int) -> list[bytes]:
    return [share for _, share in Shamir.split(threshold(holders), holders, half, ssss=False)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """Recover the secret from shares by the holder's place, from 0 on: just as many as the threshold; wrong or too few give another one."""
    places = tuple(sorted(shares))
    weights = _weights(places)
    halves = (slice(0, _HALF), slice(_HALF, None))
    return b"".join(
        _sum(
            _times(weight, int.from_bytes(shares[place][half])) for place, weight in zip(places, weights, strict=True)
        ).to_bytes(_HALF)
        for half in halves
    )


@lru_cache(maxsize=256)
def _weights(places: tuple[int, ...]) -> tuple[int, ...]:
    """Weights with which values at these places add up to the value at zero (Lagrange)."""
    points = [place + 1 for place in places]
    others = [[other for other in points if other != point] for point in points]
    apart = [_product(other ^ point for other in rest) for point, rest in zip(points, others, strict=True)]
    inverse = _inverse(_product(apart))  # one for all: an inverse costs as much as 254 products
    return tuple(_product([*rest, inverse, *apart[:place], *apart[place + 1 :]]) for place, rest in enumerate(others))


def _times(first: int, second: int) -> int:
    """Product in GF(2^128)."""
    product = 0
    while second:
        if second & 1:
            product ^= first
        first <<= 1
        if first >> _BITS:
            first ^= _POLYNOMIAL
        second >>= 1
    return product


def _inverse(value: int) -> int:
    """Inverse in GF(2^128): the power 2^128 - 2."""
    inverse = 1
    for _ in range(_BITS - 1):
        value = _times(value, value)
        inverse = _times(inverse, value)
    return inverse


def _product(factors: Iterable[int]) -> int:
    return reduce(_times, factors, 1)


def _sum(terms: Iterable[int]) -> int:
    return reduce(xor, terms, 0)


def commitment(secret: bytes) -> bytes:
    """Commitment to a secret, 16 bytes: shows later that it is the same one, and tells nothing of 256 random bits."""
    return hashlib.sha256(b"dictpfl mask commitment 1" + secret).digest()[:COMMITMENT_BYTES]
