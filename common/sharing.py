"""A secret of 32 bytes in shares, of which a threshold gives it back and fewer tell nothing (Shamir 1979).

The field is that of the library, GF(2^128), so a secret is shared in two halves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir

SECRET_BYTES = 32
COMMITMENT_BYTES = 16
_HALF = 16


def threshold(holders: int) -> int:
    """Shares that give the secret back: more than half of them."""
    return holders // 2 + 1


def split(secret: bytes, holders: int) -> list[bytes]:
    """A share of 32 bytes for each holder, in order; any `threshold(holders)` of them give the secret back."""
    halves = [_split(secret[:_HALF], holders), _split(secret[_HALF:], holders)]
    return [first + second for first, second in zip(*halves, strict=True)]


def _split(half: bytes, holders: int) -> list[bytes]:
    return [share for _, share in Shamir.split(threshold(holders), holders, half, ssss=False)]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret from shares by the holder's place, from 0 on; of wrong or too few shares, another one."""
    halves = (slice(0, _HALF), slice(_HALF, None))
    return b"".join(
        Shamir.combine([(place + 1, share[half]) for place, share in shares.items()], ssss=False) for half in halves
    )


def commitment(secret: bytes) -> bytes:
    """What shows later that a secret is the one that was meant, 16 bytes; of 256 random bits it tells nothing."""
    return hashlib.sha256(b"dictpfl mask commitment 1" + secret).digest()[:COMMITMENT_BYTES]
