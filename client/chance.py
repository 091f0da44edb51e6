"""Randomness that nobody can predict, for differential privacy: ChaCha20 under a key of the operating system (extra `dp`)."""

from __future__ import annotations

import secrets

import numpy as np


def unpredictable() -> np.random.Generator:
    """A generator over ChaCha20's keystream, with a key of 256 bits of its own.

    A new one for each use: one that was kept would give the same noise in every fork of this process.
    """
    from randomgen import ChaCha

    return np.random.Generator(ChaCha(key=secrets.randbits(256), rounds=20))
