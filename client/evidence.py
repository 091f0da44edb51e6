"""Evidence of a sum that was refused: all that is needed to look at it again elsewhere, signed by who refused it.

It says what this institution was sent. That the coordinator sent it, the coordinator's own custody log says: it holds the
SHA-256 of every sum.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from client.manifests import require_manifests, require_whole
from common.circle import Roster
from common.errors import DictPFLError, EvidenceError, IntegrityError
from common.files import write_private
from common.genesis import Genesis
from common.keys import owner_only
from common.opening import Opener
from common.protocol import Aggregate
from common.wire import Blob, Header, read_header

EVIDENCE = "evidence"
_FORMAT = "dictpfl-evidence-1"
_CONTEXT = b"dictpfl evidence 1\n"


@dataclass(frozen=True)
class Evidence:
    """A refused sum.

    Attributes:
        reason: a word, as `IntegrityError.reason` or a code. `message`: what was said here.
        member: who refused it, by number in `roster`. `aggregate`: as it came.
        own: the manifest of the upload that this institution had sent for the round, or nothing.
        components: of an upload, tags included: what is behind them in the last ciphertext is padding.
    """

    reason: str
    message: str
    member: int
    roster: Roster
    aggregate: Aggregate
    own: bytes
    components: int

    def to_bytes(self, key: Ed25519PrivateKey) -> bytes:
        """As JSON, signed."""
        document = self._document()
        signature = key.sign(_CONTEXT + _canonical(document))
        return (json.dumps({**document, "signature": signature.hex()}, indent=1) + "\n").encode()

    def _document(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "reason": self.reason,
            "message": self.message,
            "member": self.member,
            "roster": self.roster.to_bytes().decode(),
            "round": self.aggregate.round,
            "aggregate": base64.b64encode(self.aggregate.blob).decode(),
            "sha256": self.digest,
            "counted": [upload.hex() for upload in self.aggregate.counted],
            "manifests": self.aggregate.manifests.hex(),
            "own": self.own.hex(),
            "components": self.components,
        }

    @classmethod
    def of_bytes(cls, data: bytes, origin: str) -> Self:
        """Inverse of `to_bytes`; its maker's signature is checked.

        Raises:
            EvidenceError: damaged, altered, or of another release.
        """
        try:
            document = json.loads(data)
            signature = bytes.fromhex(document.pop("signature"))
            roster = Roster.of_bytes(document["roster"].encode(), origin)
            aggregate = Aggregate(
                int(document["round"]),
                base64.b64decode(document["aggregate"], validate=True),
                tuple(bytes.fromhex(upload) for upload in document["counted"]),
                bytes.fromhex(document["manifests"]),
            )
            found = cls(
                str(document["reason"]),
                str(document["message"]),
                int(document["member"]),
                roster,
                aggregate,
                bytes.fromhex(document["own"]),
                int(document["components"]),
            )
            if found._document() != document:
                raise ValueError(origin)  # noqa: TRY301 -- one message for all
            public = Ed25519PublicKey.from_public_bytes(roster.peers[found.member].signing)
            public.verify(signature, _CONTEXT + _canonical(document))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, binascii.Error, InvalidSignature) as error:
            raise EvidenceError(f"{origin} is no evidence, or was altered ({type(error).__name__})") from error
        except DictPFLError as error:
            raise EvidenceError(f"{origin} is no evidence, or was altered: {error}") from error
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the sum, in hexadecimal, as the coordinator's custody log names it."""
        return hashlib.sha256(self.aggregate.blob).hexdigest()

    @property
    def institution(self) -> str:
        """Who refused the sum."""
        return self.roster.peers[self.member].name

    @property
    def header(self) -> Header:
        """Of the sum.

        Raises:
            WireError: there is none.
        """
        return read_header(self.aggregate.blob)

    def look_again(self, genesis: Genesis | None = None, opener: Opener | None = None) -> str:
        """The reason why this sum is to be refused, found anew; "" where what can be looked at is as it should be.

        Without a key only what is signed can be looked at: `genesis` and `opener` are of an institution in that epoch.
        """
        try:
            header = self.header
            manifests = require_manifests(self.roster, header, self.aggregate, self.own)
            if genesis is None or opener is None:
                return ""
            blob = Blob.parse(
                self.aggregate.blob,
                genesis.aggregates,
                direction=header.direction,
                kind=header.kind,
                round=header.round,
            )
            opened = opener.open(blob.sealed, header.item_length)[: self.components]
            require_whole(genesis, header, manifests, opened)
        except IntegrityError as error:
            return error.reason
        except DictPFLError as error:
            return error.code
        return ""


def keep(folder: Path, evidence: Evidence, key: Ed25519PrivateKey) -> Path:
    """Write evidence into an institution's folder; the same sum, refused again, is not written again."""
    digest = hashlib.sha256(evidence.aggregate.blob + evidence.aggregate.manifests).hexdigest()
    path = owner_only(folder / EVIDENCE) / f"round-{evidence.aggregate.round:06d}-{evidence.reason}-{digest[:12]}.json"
    if not path.exists():
        write_private(path, evidence.to_bytes(key))
    return path


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
