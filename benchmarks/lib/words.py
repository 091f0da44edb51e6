"""Whole numbers of b bits each, back to back: what schemes send that need no more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 20
"""Numbers that are packed at a time: each takes a byte a bit meanwhile. A multiple of eight, so that blocks end on whole bytes."""


_FOUR = 4


def bits_for(largest: int) -> int:
    """Fewest bits for the numbers 0 to `largest`."""
    return max(1, int(largest).bit_length())


def _is_fast(bits: int) -> bool:
    """Tell whether four numbers fill whole bytes of a word of 64 bits."""
    return bits % 2 == 0 and bits * _FOUR <= 64


def packed(numbers: NDArray[np.int64], bits: int) -> bytes:
    """Numbers of 0 to 2^bits - 1 (at most 32 bits), shape (n,), as ceil(n bits / 8) bytes, the first one in the lowest bits."""
    if _is_fast(bits):
        four = np.pad(numbers, (0, -numbers.size % _FOUR)).astype("<u8").reshape(-1, _FOUR)
        words = four[:, 0] | four[:, 1] << bits | four[:, 2] << 2 * bits | four[:, 3] << 3 * bits
        return words.view(np.uint8).reshape(-1, 8)[:, : bits // 2].tobytes()[: -(-numbers.size * bits // 8)]
    parts = []
    for start in range(0, numbers.size, _BLOCK):
        block = np.ascontiguousarray(numbers[start : start + _BLOCK], dtype="<u4")
        single = np.unpackbits(block.view(np.uint8).reshape(-1, 4), axis=1, count=bits, bitorder="little")
        parts.append(np.packbits(single.reshape(-1), bitorder="little").tobytes())
    return b"".join(parts)


def unpacked(data: bytes, count: int, bits: int) -> NDArray[np.int64]:
    """Inverse of `packed`: int64, shape (count,)."""
    if _is_fast(bits):
        raw = np.frombuffer(data + bytes(-len(data) % (bits // 2)), dtype=np.uint8).reshape(-1, bits // 2)
        words = np.pad(raw, ((0, 0), (0, 8 - bits // 2))).view("<u8")
        shifts = np.arange(_FOUR, dtype=np.uint64) * np.uint64(bits)
        return ((words >> shifts) & np.uint64((1 << bits) - 1)).astype(np.int64).reshape(-1)[:count]
    parts, whole = [], np.frombuffer(data, dtype=np.uint8)
    for start in range(0, count, _BLOCK):
        number = min(_BLOCK, count - start)
        first = start * bits // 8
        single = np.unpackbits(whole[first : first + -(-number * bits // 8)], count=number * bits, bitorder="little")
        four = np.packbits(np.pad(single.reshape(number, bits), ((0, 0), (0, 32 - bits))), axis=1, bitorder="little")
        parts.append(four.view("<u4").reshape(-1).astype(np.int64))
    return np.concatenate(parts)


def entropy(numbers: NDArray[np.int64]) -> float:
    """Bytes a number that no code of single numbers goes below: their entropy (Shannon 1948)."""
    _, counts = np.unique(numbers, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum() / 8)
