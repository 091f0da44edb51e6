"""Randomness that nobody can predict, for differential privacy: ChaCha20 under a key of the operating system (extra `dp`)."""

from __future__ import annotations

import secrets

import numpy as np


def unpredictable() -> np.random.Generator:
    """Make a generator over ChaCha20's keystream, with a fresh key of 256 bits.

    Make a new one for each use: a kept one would give the same noise in every fork of this process.
    """
    from randomgen import ChaCha

    return np.random.Generator(ChaCha(key=secrets.randbits(256), rounds=20))
