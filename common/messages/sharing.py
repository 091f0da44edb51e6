"""Secret sharing: 32 bytes in shares, of which a threshold gives them back and fewer tell nothing (Shamir 1979).

The field is that of the library, GF(2^128), so a secret is shared in two halves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir

from dictpfl.common.protection import quorum

SECRET_BYTES = 32
COMMITMENT_BYTES = 16
_HALF = 16


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
    """Recover the secret from shares by the holder's place, from 0 on; wrong or too few shares give another one."""
    halves = (slice(0, _HALF), slice(_HALF, None))
    return b"".join(
        Shamir.combine([(place + 1, share[half]) for place, share in shares.items()], ssss=False) for half in halves
    )


def commitment(secret: bytes) -> bytes:
    """Commitment to a secret, 16 bytes: shows later that it is the same one, and tells nothing of 256 random bits."""
    return hashlib.sha256(b"dictpfl mask commitment 1" + secret).digest()[:COMMITMENT_BYTES]
