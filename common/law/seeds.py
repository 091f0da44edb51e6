"""Replayable randomness: SHAKE-256 over a seed and a context, the same bits on every platform and in every version."""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
from numpy.typing import NDArray

SEED_BYTES = 32


def new_seed() -> bytes:
    """Draw a fresh secret seed of 256 bits."""
    return secrets.token_bytes(SEED_BYTES)


def expand(seed: bytes, *context: bytes | str | int, length: int) -> bytes:
    """Derive `length` bytes with SHAKE-256 from the seed and the context.

    Every part is prefixed with its length, so that no two contexts collide.
    """
    state = hashlib.shake_256(b"dictpfl-v1")
    for part in (seed, *context):
        data = part if isinstance(part, bytes) else str(part).encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.digest(length)


def uint32s(seed: bytes, *context: bytes | str | int, count: int) -> NDArray[np.uint32]:
    """Draw `count` uniform 32-bit integers, uint32."""
    return np.frombuffer(expand(seed, *context, length=4 * count), dtype="<u4").astype(np.uint32)


def signs(seed: bytes, *context: bytes | str | int, count: int) -> NDArray[np.float64]:
    """Draw `count` random signs, -1.0 or 1.0, float64."""
    raw = np.frombuffer(expand(seed, *context, length=(count + 7) // 8), dtype=np.uint8)
    return 1.0 - 2.0 * np.unpackbits(raw, count=count).astype(np.float64)


def small_seed(seed: bytes, *context: bytes | str | int) -> int:
    """Derive a non-negative 63-bit seed for a library's generator (torch, numpy): local use, never shared state."""
    return int.from_bytes(expand(seed, *context, length=8), "little") >> 1
