"""An institution's own keys among its peers, and the secret that it has with each: X25519, then HKDF for federation and epoch.

The coordinator has none of this: it is told public keys at most.
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

from client.epochs import Keyring, read_roster
from client.site import PEER_KEY, PEERS, SEALED_PEER_KEY
from common.circle import Circle, Peer, Roster
from common.errors import KeyFileError

PEER_PURPOSE = "peer keys"
_FORMAT = "dictpfl-peer-keys-1"
_SECRET = 32


@dataclass(frozen=True)
class OwnKeys:
    """The private halves of a member's keys; never printed."""

    name: str
    receiving: X25519PrivateKey = field(repr=False)
    signing: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def make(cls, name: str) -> Self:
        """Fresh ones, for a simulation; in a deployment they are those of the institution's identity."""
        return cls(name, X25519PrivateKey.generate(), Ed25519PrivateKey.generate())

    @property
    def public(self) -> Peer:
        """What the others know."""
        return Peer(
            self.name, self.receiving.public_key().public_bytes_raw(), self.signing.public_key().public_bytes_raw()
        )

    def to_bytes(self) -> bytes:
        """As JSON; to be sealed, or to lie where its owner alone may read it."""
        keys = {
            "receiving": self.receiving.private_bytes_raw().hex(),
            "signing": self.signing.private_bytes_raw().hex(),
        }
        return json.dumps({"format": _FORMAT, "name": self.name, **keys}).encode()

    @classmethod
    def of_bytes(cls, data: bytes, origin: str) -> Self:
        """Inverse of `to_bytes`; `origin` is for messages.

        Raises:
            KeyFileError: damaged, or of another release.
        """
        try:
            document = json.loads(data)
            if document["format"] != _FORMAT:
                raise KeyFileError(f"{origin} is of format {document['format']!r}, expected {_FORMAT!r}")
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
    """This institution among its peers.

    Attributes:
        own: its keys. `number`: its place in the roster. `roster`: all members.
        circle: whom it masks with. `context`: federation id and key fingerprint, bound into every secret.
    """

    own: OwnKeys = field(repr=False)
    number: int
    roster: Roster
    circle: Circle
    context: bytes

    @classmethod
    def load(cls, keys: Keyring) -> Self:
        """Those of the epoch in force.

        Raises:
            ConfigError: no list of members, or one without this institution. KeyFileError, PassphraseError: its keys.
        """
        genesis, roster = keys.genesis, read_roster(keys.home / PEERS)
        data, origin = keys.private(keys.home, PEER_KEY, SEALED_PEER_KEY, PEER_PURPOSE)
        own = OwnKeys.of_bytes(data, str(origin))
        context = genesis.federation + genesis.fingerprint
        circle = Circle(len(roster.peers), genesis.config.defences.mask_partners, genesis.seed, context)
        return cls(own, roster.number(own.name, own.public.receiving), roster, circle, context)

    @cached_property
    def secrets(self) -> Mapping[int, bytes]:
        """By partner: 32 bytes that only the two can compute."""
        return {number: self._secret(number) for number in self.circle.partners(self.number)}

    def _secret(self, number: int) -> bytes:
        agreed = self.own.receiving.exchange(X25519PublicKey.from_public_bytes(self.roster.peers[number].receiving))
        both = min(self.number, number).to_bytes(2, "little") + max(self.number, number).to_bytes(2, "little")
        return HKDF(SHA256(), _SECRET, salt=self.context, info=b"dictpfl pair 1" + both).derive(agreed)


def derived(secret: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """32 bytes for one purpose, by HKDF-Expand; every part is prefixed with its length."""
    info = purpose + b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return HKDFExpand(SHA256(), _SECRET, info=info).derive(secret)
