"""Pairs: an institution's keys, and the secret that it shares with each peer (X25519, HKDF for federation and epoch).

The coordinator has no secret of these; it knows public keys at most.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from dictpfl.client.folder import PEER_KEY, PEERS, SEALED_PEER_KEY
from dictpfl.client.keys.epochs import Keyring, read_roster
from dictpfl.common.documents import parse_document
from dictpfl.common.errors import KeyFileError
from dictpfl.common.law.members import PairGraph, Peer, Roster

PEER_PURPOSE = "peer keys"
_FORMAT = "dictpfl-peer-keys-1"
_SECRET = 32


@dataclass(frozen=True)
class OwnKeys:
    """Private halves of a member's keys; never printed."""

    name: str
    receiving: X25519PrivateKey = field(repr=False)
    signing: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def make(cls, name: str) -> Self:
        """Make fresh keys, for a simulation; in a deployment they are those of the institution's identity."""
        return cls(name, X25519PrivateKey.generate(), Ed25519PrivateKey.generate())

    @property
    def public(self) -> Peer:
        """Public halves, which the other members know."""
        return Peer(
            self.name, self.receiving.public_key().public_bytes_raw(), self.signing.public_key().public_bytes_raw()
        )

    def to_bytes(self) -> bytes:
        """Encode as JSON; to be sealed, or to lie where its owner alone may read it."""
        keys = {
            "receiving": self.receiving.private_bytes_raw().hex(),
            "signing": self.signing.private_bytes_raw().hex(),
        }
        return json.dumps({"format": _FORMAT, "name": self.name, **keys}).encode()

    @classmethod
    def of_bytes(cls, data: bytes, origin: str) -> Self:
        """Decode what `to_bytes` made; `origin` is for messages.

        Raises:
            KeyFileError: damaged, or of another release.
        """
        try:
            document = parse_document(data, _FORMAT, origin, KeyFileError)
            return cls(
                str(document["name"]),
                X25519PrivateKey.from_private_bytes(bytes.fromhex(document["receiving"])),
                Ed25519PrivateKey.from_private_bytes(bytes.fromhex(document["signing"])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise KeyFileError(
                f"{origin} holds no peer keys ({type(error).__name__}); restore it from backup"
            ) from None


@dataclass(frozen=True)
class Pairs:
    """Institution among its peers.

    Attributes:
        own: its keys.
        number: its place in the roster.
        roster: all members of the epoch.
        graph: pairs that share masks.
        context: federation id and key fingerprint, bound into every secret.
    """

    own: OwnKeys = field(repr=False)
    number: int
    roster: Roster
    graph: PairGraph
    context: bytes

    @classmethod
    def load(cls, keys: Keyring) -> Self:
        """Load keys and members of the epoch in force.

        Raises:
            ConfigError: no list of members, or one without this institution.
            KeyFileError: its keys are missing, damaged, or readable by others.
            PassphraseError: its keys do not open.
        """
        genesis, roster = keys.genesis, read_roster(keys.home / PEERS)
        data, origin = keys.private(keys.home, PEER_KEY, SEALED_PEER_KEY, PEER_PURPOSE)
        own = OwnKeys.of_bytes(data, str(origin))
        context = genesis.federation + genesis.fingerprint
        graph = PairGraph(len(roster.peers), genesis.config.defences.mask_partners, genesis.secret_seed, context)
        return cls(own, roster.number(own.name, own.public.receiving), roster, graph, context)

    @property
    def marking(self) -> bytes:
        """Secret of this institution alone that marks its uploads, 32 bytes: from its own key, so that it outlives a memory.

        An institution on a new machine, with nothing but its bundle, still knows which uploads in older sums were its own.
        """
        return derived(self.own.receiving.private_bytes_raw(), b"dictpfl record 1", self.context[:_SECRET])

    @cached_property
    def secrets(self) -> Mapping[int, bytes]:
        """Secret shared with each partner, by its number: 32 bytes that only the two can compute."""
        return {number: self._secret(number) for number in self.graph.partners(self.number)}

    def _secret(self, number: int) -> bytes:
        agreed = self.own.receiving.exchange(X25519PublicKey.from_public_bytes(self.roster.peers[number].receiving))
        both = min(self.number, number).to_bytes(2, "little") + max(self.number, number).to_bytes(2, "little")
        return HKDF(SHA256(), _SECRET, salt=self.context, info=b"dictpfl pair 1" + both).derive(agreed)


def derived(secret: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """Derive 32 bytes for one purpose, by HKDF-Expand; every part is prefixed with its length."""
    info = purpose + b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return HKDFExpand(SHA256(), _SECRET, info=info).derive(secret)
