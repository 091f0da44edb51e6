"""Rivals that send few bits: the same 8-bit values in clear, and under one-time pads from a shared key."""

from __future__ import annotations

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from lib.measured import PARTICIPANTS, Measured, Vectors
from lib.words import bits_for, entropy, packed, unpacked

VALUE_BITS = 8
_NONCE = 16


class ClearIntegers:
    """8-bit values in clear: the floor of any scheme that sends these values one by one. Sums travel in the bits that they need."""

    name = "8-bit values in clear"

    def run(self, vectors: Vectors) -> Measured:
        """See `Scheme.run`."""
        now, grid = Measured(), _Grid(vectors)
        uploads = []
        for vector in vectors:
            with now.phase("encrypt", 1 / PARTICIPANTS):
                uploads.append(packed(grid.codes(vector), VALUE_BITS))
        with now.phase("aggregate"):
            total = sum(unpacked(upload, grid.count, VALUE_BITS) for upload in uploads)
            aggregate = packed(np.asarray(total), grid.bits)
        with now.phase("decrypt"):
            mean = grid.mean(unpacked(aggregate, grid.count, grid.bits))
        now.up, now.down = len(uploads[0]), len(aggregate)
        now.entropy = entropy(grid.codes(vectors[0]))
        now.judge(mean, vectors)
        return now


class OneTimePads:
    """One-time pads from AES-256-CTR under a key that all institutions share, added modulo 2^b: who lacks the key learns nothing.

    As in Castelluccia, Mykletun and Tsudik 2005, and ASHE (Papadimitriou et al. 2016). Each upload has a nonce of its own;
    who opens the sum draws all pads again. Like encryption under one shared key, it protects no institution from another.
    """

    name = "AES-CTR pads, 8 bits"

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def run(self, vectors: Vectors) -> Measured:
        """See `Scheme.run`."""
        now, grid = Measured(), _Grid(vectors)
        uploads = []
        for vector in vectors:
            with now.phase("encrypt", 1 / PARTICIPANTS):
                nonce = os.urandom(_NONCE)
                uploads.append(nonce + packed((grid.codes(vector) + self._pad(nonce, grid)) & grid.mask, grid.bits))
        with now.phase("aggregate"):
            total = sum(unpacked(upload[_NONCE:], grid.count, grid.bits) for upload in uploads)
            nonces = b"".join(upload[:_NONCE] for upload in uploads)
            aggregate = nonces + packed(np.asarray(total) & grid.mask, grid.bits)
        with now.phase("decrypt"):
            end = PARTICIPANTS * _NONCE
            pads = sum(self._pad(aggregate[at : at + _NONCE], grid) for at in range(0, end, _NONCE))
            mean = grid.mean((unpacked(aggregate[end:], grid.count, grid.bits) - pads) & grid.mask)
        now.up, now.down = len(uploads[0]), len(aggregate)
        now.judge(mean, vectors)
        return now

    def _pad(self, nonce: bytes, grid: _Grid) -> NDArray[np.int64]:
        stream = Cipher(AES(self._key), CTR(nonce)).encryptor().update(bytes(2 * grid.count))
        return np.frombuffer(stream, dtype="<u2").astype(np.int64) & grid.mask


class _Grid:
    """Grid of whole numbers that all vectors are rounded to, as this project's scheme rounds them; its range is taken as agreed.

    Attributes:
        count: values of a vector.
        bits: bits of a sum, which the pads need already in the uploads.
        mask: 2^bits - 1.
    """

    def __init__(self, vectors: Vectors) -> None:
        self._largest = 2 ** (VALUE_BITS - 1) - 1
        self._step = float(max(np.abs(v).max() for v in vectors)) / self._largest
        self.count = vectors[0].size
        self.bits = bits_for(2 * PARTICIPANTS * self._largest)
        self.mask = (1 << self.bits) - 1

    def codes(self, vector: NDArray[np.float32]) -> NDArray[np.int64]:
        """Round to 0 ... 2 largest."""
        return np.rint(vector / self._step).astype(np.int64) + self._largest

    def mean(self, sums: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean of the vectors that a sum of codes stands for."""
        return (sums - PARTICIPANTS * self._largest) * (self._step / PARTICIPANTS)
