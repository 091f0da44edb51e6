"""Words: coefficients as they travel, short of the low bits that noise fills anyway, and packed bit to bit.

A coefficient x modulo the ciphertext prime q travels as the word round(x p / q) modulo a smaller prime p. Words add
modulo p as coefficients add modulo q, and they fill a prime field, over which tags are linear
(`dictpfl.common.law.integrity`; docs/decisions/0030).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import CorruptError

Words = NDArray[np.uint64]
_BELOW = {
    40: 87, 41: 21, 42: 11, 43: 57, 44: 17, 45: 55, 46: 21, 47: 115, 48: 59, 49: 81, 50: 27, 51: 129, 52: 47, 53: 111, 54: 33,
}  # fmt: skip
"""Distance of the largest prime below 2^w from 2^w, by w."""
WORD_BITS = range(min(_BELOW), max(_BELOW) + 1)
"""Bits that a word may have; with more, the quotients below would leave 64 bits."""
_LANES = 8
SLACK = 8
"""Bytes that are touched behind packed words, and left as they were."""
_BLOCK = 1 << 12
"""Groups of eight words at once: what is read and written eight times then stays in the processor's cache."""


def word_prime(bits: int) -> int:
    """Return the largest prime below 2^bits, for `bits` in `WORD_BITS`."""
    return (1 << bits) - _BELOW[bits]


def add_modulo(into: Words, other: Words, prime: int) -> None:
    """Add `other` to `into` modulo the prime, in place; both are below the prime, which is below 2^63."""
    for start in range(0, len(into), _BLOCK * _LANES):
        part = into[start : start + _BLOCK * _LANES]
        np.add(part, other[start : start + _BLOCK * _LANES], out=part)
        # Where the sum is below the prime, sum - prime wraps around to a larger number, so the minimum is the sum itself.
        np.minimum(part, part - np.uint64(prime), out=part)


def to_words(coefficients: Words, q: int, p: int) -> Words:
    """Round x p / q to the nearest integer, halves up, modulo p: uint64; x are below q, uint64, any shape."""
    words = _scaled(coefficients, p, q)
    words[words == np.uint64(p)] = 0
    return words


def to_coefficients(words: Words, q: int, p: int) -> Words:
    """Round x q / p to the nearest integer, halves up: uint64 below q; x are below p."""
    return _scaled(words, q, p)


def _scaled(values: Words, factor: int, divisor: int) -> Words:
    """Compute floor((2 x factor + divisor) / (2 divisor)) exactly, though x * factor has up to 114 bits.

    A float64 gives the quotient to within a few units; what the product lacks of it is small, so that 64 bits that wrap
    around hold it, and put the quotient right.
    """
    quotient = (values.astype(np.float64) * (factor / divisor)).astype(np.uint64)
    rest = values * np.uint64(factor)
    rest -= quotient * np.uint64(divisor)
    signed: Ints = rest.view(np.int64)
    signed += (divisor - 1) // 2
    signed //= divisor
    quotient += rest
    return quotient


def residues(integers: Ints, prime: int) -> Words:
    """Return integers modulo the prime, uint64."""
    return (integers % np.int64(prime)).astype(np.uint64)


def centred(words: Words, prime: int) -> Ints:
    """Return residues as signed integers around zero, int64."""
    signed = words.astype(np.int64)
    signed -= (signed > prime // 2) * np.int64(prime)
    return signed


def packed_length(count: int, bits: int) -> int:
    """Bytes of so many packed words."""
    return -(-count * bits // 8)


def pack_words(words: Words, bits: int) -> bytes:
    """Pack words below 2^bits, shape (n,): word i takes bits i * bits and on, the lowest bit of each byte first."""
    out = bytearray(packed_length(words.size, bits) + SLACK)
    pack_into(out, 0, words, bits)
    return bytes(memoryview(out)[:-SLACK])


def pack_into(out: bytearray | memoryview, at: int, words: Words, bits: int) -> None:
    """Pack words into zeros from byte `at` on; see `pack_words`. Behind them there have to be `SLACK` bytes more."""
    groups = min(_BLOCK, -(-words.size // _LANES))
    lanes, shifted = np.zeros((groups, _LANES), dtype="<u8"), np.empty(groups, dtype="<u8")
    for first in range(0, words.size, _BLOCK * _LANES):
        part = words[first : first + _BLOCK * _LANES]
        lanes[-(-part.size // _LANES) - 1] = 0  # what is left of the last group
        lanes.reshape(-1)[: part.size] = part
        # A group of eight words fills `bits` bytes; each word is within the eight bytes from where it begins.
        for lane in range(_LANES):
            start, shift = divmod(lane * bits, 8)
            count = -(-(part.size - lane) // _LANES)
            if count <= 0:
                break
            eight: Words = np.ndarray((count,), "<u8", out, at + first // _LANES * bits + start, (bits,))
            np.left_shift(lanes[:count, lane], np.uint64(shift), out=shifted[:count])
            np.bitwise_or(eight, shifted[:count], out=eight)


def unpack_words(data: bytes | memoryview, count: int, bits: int) -> Words:
    """Unpack what `pack_words` made: uint64, shape (count,).

    Raises:
        CorruptError: another number of bytes, or bits that are set beyond the last word.
    """
    if len(data) != packed_length(count, bits):
        raise CorruptError(f"{len(data)} bytes are not {count} words of {bits} bits")
    groups = -(-count // _LANES)
    words = np.empty((groups, _LANES), dtype=np.uint64)
    above = np.empty(min(groups, _BLOCK), dtype=np.uint64)
    for first in range(0, groups, _BLOCK):
        block = words[first : first + _BLOCK]
        at = first * bits
        part = memoryview(data)[at : at + len(block) * bits + SLACK]
        if len(part) < len(block) * bits + SLACK:
            part = memoryview(bytes(part).ljust(len(block) * bits + SLACK, b"\x00"))
        for lane in range(_LANES):
            start, shift = divmod(lane * bits, 8)
            eight: Words = np.ndarray((len(block),), "<u8", part, start, (bits,))
            np.left_shift(
                eight, np.uint64(64 - bits - shift), out=above[: len(block)]
            )  # what is above the word falls off
            np.right_shift(above[: len(block)], np.uint64(64 - bits), out=block[:, lane])
    flat = words.reshape(-1)
    if flat[count:].any():
        raise CorruptError(
            "bits beyond the last word are set; the blob was damaged, or its maker does not follow the protocol"
        )
    return flat[:count]
