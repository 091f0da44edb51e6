"""The terms of an epoch: one public page, signed by the authority, the same for every party.

Genesis says what is trained; the terms say by whom, under which key, and with which app. The federation id covers neither
of these (docs/decisions/0003, 0015), so that all three can change from one epoch to the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from dictpfl.common.documents import parse_document
from dictpfl.common.errors import BundleError, CeremonyError, ConfigError, IdentityError
from dictpfl.common.fingerprint import spoken
from dictpfl.deploy.ceremony.identity import PublicIdentity, Signer, canonical, require_name
from dictpfl.deploy.ceremony.pinning import pinned

TERMS = "terms.json"
_FORMAT = "dictpfl-terms-1"
_CONTEXT = b"dictpfl terms 1\n"
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Member:
    """An institution of an epoch: fingerprint of its identity (32 bytes) and its node's public key (OpenSSH)."""

    identity: bytes
    node: str


@dataclass(frozen=True)
class Terms:
    """Terms that an epoch binds all parties to.

    Attributes:
        federation: its id.
        epoch: from 1 on.
        first_round: the first one under its key.
        key: the key's fingerprint, 32 bytes.
        app: SHA-256 of the app bundle, in hexadecimal: the only one that any party runs.
        half: SHA-256 of the coordinator's half as it was handed out, 32 bytes.
        members: by name.
        authority: who signs.
        signature: Ed25519, 64 bytes; empty until then.
    """

    federation: bytes
    epoch: int
    first_round: int
    key: bytes
    app: str
    half: bytes
    members: Mapping[str, Member]
    authority: PublicIdentity
    signature: bytes = b""

    def __post_init__(self) -> None:
        """Check what is compared elsewhere.

        Raises:
            ConfigError: an app's hash that is none. IdentityError: a member's name that is no file name.
        """
        for name in self.members:
            require_name(name)
        require_hash(self.app)

    def signed(self, authority: Signer) -> Self:
        """Return these terms, signed."""
        return replace(self, signature=authority.sign(_CONTEXT + canonical(self._document())))

    def to_bytes(self) -> bytes:
        """Return the signed page, as JSON with one form only."""
        return canonical({**self._document(), "signature": self.signature.hex()}) + b"\n"

    def _document(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "federation": self.federation.hex(),
            "epoch": self.epoch,
            "first_round": self.first_round,
            "key": self.key.hex(),
            "app": self.app,
            "half": self.half.hex(),
            "members": {name: [member.identity.hex(), member.node] for name, member in self.members.items()},
            "authority": self.authority.facts(),
        }

    @classmethod
    def of_bytes(cls, data: bytes, origin: str) -> Self:
        """Read what `to_bytes` made; whether the authority that it names is the right one is for the caller to say.

        Raises:
            BundleError (tampered-bundle): altered, or of another release.
        """
        try:
            document = parse_document(data, _FORMAT, origin, partial(BundleError, code="tampered-bundle"))
            signature = bytes.fromhex(document.pop("signature"))
            terms = cls(
                bytes.fromhex(document["federation"]),
                int(document["epoch"]),
                int(document["first_round"]),
                bytes.fromhex(document["key"]),
                str(document["app"]),
                bytes.fromhex(document["half"]),
                {
                    name: Member(bytes.fromhex(identity), str(node))
                    for name, (identity, node) in document["members"].items()
                },
                PublicIdentity.of(document["authority"], origin),
                signature,
            )
            good = terms.to_bytes() == data and terms.authority.verify(signature, _CONTEXT + canonical(document))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError, IdentityError):
            good = False
        if not good:
            raise BundleError(
                f"{origin} was altered, or written by another release: the authority's signature does not fit. Ask the "
                "authority for it again",
                code="tampered-bundle",
            )
        return terms


def require_hash(app: str) -> str:
    """Return the hash of an app bundle, if it is one.

    Raises:
        ConfigError: it is not.
    """
    if not _HASH.fullmatch(app):
        raise ConfigError(
            f"{app!r} is no SHA-256 of an app bundle: expected 64 hexadecimal digits, see `dictpfl bundle`"
        )
    return app


def read_terms(path: Path) -> Terms:
    """Return the terms in a file.

    Raises:
        BundleError (tampered-bundle): altered. CeremonyError: not readable.
    """
    try:
        return Terms.of_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise CeremonyError(f"cannot read {path}: {error.strerror}; restore it, or ask the authority for it") from error


def in_force(folder: Path, home: Path) -> Terms | None:
    """Return the terms that a party lives by; None if it has met no authority.

    They must be signed by the authority that the party pinned. A coordinator into whose folder the half was copied, without
    `dictpfl coordinator install`, has pinned none: then the signature shows that the page is whole, not whose it is.

    Args:
        folder: the party's.
        home: where the terms lie: `dictpfl.client.keys.epochs.home` of an institution, the coordinator's folder.

    Raises:
        BundleError: altered, or signed by another authority. CeremonyError: missing though there is an authority.
    """
    authority, coordinator = pinned(folder), home == folder
    path = home / TERMS
    if authority is None and coordinator and not path.exists():
        return None  # founded by a simulation, for trying out
    terms = read_terms(path)
    if authority is None and coordinator:
        return terms
    if authority is None or terms.authority.fingerprint != authority.fingerprint:
        raise BundleError(
            f"{path} is signed by {terms.authority.name}, {spoken(terms.authority.fingerprint)}, who is not the authority "
            f"of {folder}; restore it from backup",
            code="unknown-sender",
        )
    return terms
