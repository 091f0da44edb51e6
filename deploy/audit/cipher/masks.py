"""Masks: pairs' streams and an upload's own, with the secrets that they derive from (section 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from dictpfl.deploy.audit.formats.blobs import Blob
from dictpfl.deploy.audit.formats.streams import Words, expand, hkdf, hkdf_expand, uniform


@dataclass(frozen=True)
class Circle:
    """Graph of the pairs that share masks.

    Attributes:
        members: number of members.
        most: most partners of a member.
        seed: seed of the epoch.
        context: federation id and key fingerprint, 64 bytes.
    """

    members: int
    most: int
    seed: bytes = field(repr=False)
    context: bytes

    def partners(self, member: int) -> list[int]:
        """List a member's partners: all others, or the nearest on a secret circle."""
        if self.members - 1 <= self.most:
            return [other for other in range(self.members) if other != member]
        keys = [expand(self.seed, "circle", self.context, one, length=16) for one in range(self.members)]
        order = sorted(range(self.members), key=lambda one: keys[one])
        place, near = order.index(member), self.most // 2
        steps = [step for step in range(-near, near + 1) if step]
        return sorted(order[(place + step) % self.members] for step in steps)


def pair_secret(own: bytes, other: bytes, numbers: tuple[int, int], context: bytes) -> bytes:
    """Compute the secret of a pair, 32 bytes, from one's private and the other's public X25519 key."""
    agreed = X25519PrivateKey.from_private_bytes(own).exchange(X25519PublicKey.from_public_bytes(other))
    low, high = sorted(numbers)
    return hkdf(agreed, context, b"dictpfl pair 1" + low.to_bytes(2, "little") + high.to_bytes(2, "little"))


@dataclass(frozen=True)
class Masker:
    """Member with all that its masks derive from.

    Attributes:
        number: its number.
        context: federation id and key fingerprint, 64 bytes.
        secret: secret of its record, 32 bytes.
        pairs: secret shared with each partner, by its number.
    """

    number: int
    context: bytes
    secret: bytes = field(repr=False)
    pairs: Mapping[int, bytes] = field(repr=False)

    def seeds(self, blob: Blob) -> tuple[list[bytes], list[bytes]]:
        """Derive the seeds of the streams that are added to an upload, and of those that are subtracted."""
        shared = blob.round.to_bytes(8, "little") + blob.attempt.to_bytes(8, "little") + blob.kind.encode()
        own = derived(self.secret, b"dictpfl own mask 1", self.context, shared, blob.entries[0].upload_id)
        streams = {n: derived(secret, b"dictpfl pair mask 1", shared) for n, secret in self.pairs.items()}
        plus = [seed for n, seed in streams.items() if self.number < n]
        return [own, *plus], [seed for n, seed in streams.items() if self.number > n]

    def taken_off(self, blob: Blob, prime: int) -> Words:
        """Take the masks off an upload's words."""
        plus, minus = self.seeds(blob)
        return shifted(blob.words, prime, plus=minus, minus=plus)


def shifted(words: Words, prime: int, *, plus: Sequence[bytes], minus: Sequence[bytes]) -> Words:
    """Add the streams of some seeds to words modulo the prime, and subtract those of others."""
    total, modulus = words.astype(np.uint64), np.uint64(prime)
    for seed in plus:
        total = (total + uniform(seed, words.size, prime)) % modulus
    for seed in minus:
        total = (total + (modulus - uniform(seed, words.size, prime))) % modulus
    return total


def derived(secret: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """Derive 32 bytes for one purpose, each part behind its length as 4 bytes."""
    return hkdf_expand(secret, purpose + b"".join(len(part).to_bytes(4, "little") + part for part in parts))
