"""Evidence of a refused sum, signed by the institution that refused it: enough to check the sum again elsewhere.

Evidence shows what this institution received. The coordinator's own custody log shows that the coordinator sent it:
it holds the SHA-256 of every sum.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dictpfl.client.defences.limits import has_room
from dictpfl.common.documents import parse_document
from dictpfl.common.errors import DictPFLError, EvidenceError, IntegrityError, KeyFileError
from dictpfl.common.files import owner_only, write_private
from dictpfl.common.genesis import Genesis, require_tagged
from dictpfl.common.law.integrity import require_manifests
from dictpfl.common.law.members import Roster
from dictpfl.common.messages.protocol import Aggregate
from dictpfl.common.messages.wire import Blob, Header, read_entries, read_header

_log = structlog.get_logger(__name__)
EVIDENCE = "evidence"
_FORMAT = "dictpfl-evidence-2"
_CONTEXT = b"dictpfl evidence 1\n"


@dataclass(frozen=True)
class Evidence:
    """Evidence of one refused sum.

    Attributes:
        reason: `IntegrityError.reason`, or the code of another error.
        message: message of the error.
        member: number, in `roster`, of the institution that refused the sum.
        roster: members of the round's epoch.
        aggregate: sum as it came.
        own: manifest of the upload that this institution had sent for the round; empty without one.
    """

    reason: str
    message: str
    member: int
    roster: Roster
    aggregate: Aggregate
    own: bytes

    def to_bytes(self, key: Ed25519PrivateKey) -> bytes:
        """Encode as JSON, signed."""
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
            "manifests": self.aggregate.manifests.hex(),
            "own": self.own.hex(),
        }

    @classmethod
    def of_bytes(cls, data: bytes, origin: str) -> Self:
        """Decode what `to_bytes` made, and check its maker's signature.

        Raises:
            EvidenceError: damaged, altered, or of another release.
        """
        try:
            document = parse_document(data, _FORMAT, origin, EvidenceError)
            signature = bytes.fromhex(document.pop("signature"))
            roster = Roster.of_bytes(document["roster"].encode(), origin)
            aggregate = Aggregate(
                int(document["round"]),
                base64.b64decode(document["aggregate"], validate=True),
                manifests=bytes.fromhex(document["manifests"]),
            )
            evidence = cls(
                str(document["reason"]),
                str(document["message"]),
                int(document["member"]),
                roster,
                aggregate,
                bytes.fromhex(document["own"]),
            )
            if evidence._document() != document:
                raise ValueError(origin)  # noqa: TRY301 -- one message for all
            public = Ed25519PublicKey.from_public_bytes(roster.peers[evidence.member].signing)
            public.verify(signature, _CONTEXT + _canonical(document))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, binascii.Error, InvalidSignature) as error:
            raise EvidenceError(f"{origin} is no evidence, or was altered ({type(error).__name__})") from error
        except EvidenceError:
            raise
        except DictPFLError as error:
            raise EvidenceError(f"{origin} is no evidence, or was altered: {error}") from error
        return evidence

    @property
    def digest(self) -> str:
        """SHA-256 of the sum, in hexadecimal, as the coordinator's custody log names it."""
        return hashlib.sha256(self.aggregate.blob).hexdigest()

    @property
    def institution(self) -> str:
        """Name of the institution that refused the sum."""
        return self.roster.peers[self.member].name

    @property
    def header(self) -> Header:
        """Header of the sum, unverified.

        Raises:
            WireError: the sum has no header.
        """
        return read_header(self.aggregate.blob)

    def look_again(self, genesis: Genesis | None = None) -> str:
        """Check the sum again; return the reason to refuse it, or "" where everything that can be checked is right.

        Without a genesis, whose seed the tags are made with, only signatures can be checked.

        Args:
            genesis: genesis of an institution in the round's epoch.
        """
        try:
            if self.aggregate.manifests:
                blob = self.aggregate.blob
                require_manifests(self.roster, self.header, read_entries(blob), self.aggregate.manifests)
            if genesis is None:
                return ""
            header = self.header
            whole = Blob.parse(
                self.aggregate.blob, genesis.limits, direction=header.direction, kind=header.kind, round=header.round
            )
            require_tagged(genesis, whole)
        except IntegrityError as error:
            return error.reason
        except DictPFLError as error:
            return error.code
        return ""


def keep(folder: Path, evidence: Evidence, key: Ed25519PrivateKey) -> Path | None:
    """Write evidence into an institution's folder, once for each sum; returns the file's path, None where it cannot be kept.

    A full disk, or a folder that others may enter, is a warning: the answer to who sent the sum must not depend on it.
    """
    digest = hashlib.sha256(evidence.aggregate.blob + evidence.aggregate.manifests).hexdigest()
    path = folder / EVIDENCE / f"round-{evidence.aggregate.round:06d}-{evidence.reason}-{digest[:12]}.json"
    try:
        owner_only(path.parent)
        if not path.exists():
            if not has_room(path.parent):
                return None
            write_private(path, evidence.to_bytes(key))
    except (OSError, KeyFileError) as error:
        _log.warning("evidence not kept", folder=str(path.parent), reason=str(error))
        return None
    return path


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
