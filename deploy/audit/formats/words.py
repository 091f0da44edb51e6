"""Words of the wire: cut from residues modulo q to residues modulo p and back, and packed bit by bit (sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dictpfl.common.errors import CorruptError
from dictpfl.deploy.audit.formats.streams import Words


def cut(residues: Iterable[int], q: int, p: int) -> Words:
    """Turn residues modulo q into words modulo p: the nearest multiple of p / q, halves up."""
    return np.array([(2 * x * p + q) // (2 * q) % p for x in residues], dtype=np.uint64)


def widened(words: Iterable[int], q: int, p: int) -> Words:
    """Turn words modulo p back into residues modulo q: the nearest multiple of q / p, halves up."""
    return np.array([(2 * w * q + p) // (2 * p) % q for w in words], dtype=np.uint64)


def packed(words: Words, bits: int) -> bytes:
    """Put words one behind the other, lowest bit first; the last byte is filled up with zeros."""
    places = np.arange(bits, dtype=np.uint64)
    return np.packbits(((words[:, None] >> places) & np.uint64(1)).astype(np.uint8), bitorder="little").tobytes()


def packed_length(count: int, bits: int) -> int:
    """Number of bytes of so many packed words."""
    return -(-count * bits // 8)


def unpacked(data: bytes, count: int, bits: int) -> Words:
    """Read what `packed` made: uint64, shape (count,).

    Raises:
        CorruptError: another length, or bits behind the last word that are not zero.
    """
    if len(data) != packed_length(count, bits):
        raise CorruptError(f"{count} words of {bits} bits take {packed_length(count, bits)} bytes, found {len(data)}")
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if flat[count * bits :].any():
        raise CorruptError("bits behind the last word are not zero; the blob was not made by this protocol")
    rows = np.zeros((count, 64), np.uint8)
    rows[:, :bits] = flat[: count * bits].reshape(count, bits)
    return np.packbits(rows, axis=1, bitorder="little").view("<u8").reshape(count).astype(np.uint64)
