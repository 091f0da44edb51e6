"""Manifests at an institution: it signs its uploads, and keeps evidence of sums that it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dictpfl.client.defences.evidence import Evidence, keep
from dictpfl.client.defences.pairs import Pairs
from dictpfl.common.errors import ConfigError, IntegrityError
from dictpfl.common.law.integrity import require_manifests
from dictpfl.common.law.members import Roster
from dictpfl.common.messages.manifest import Manifest
from dictpfl.common.messages.masks import SumQuestion
from dictpfl.common.messages.protocol import Aggregate
from dictpfl.common.messages.wire import Entry, read_header


@dataclass(frozen=True)
class Integrity:
    """Integrity of one institution in one epoch.

    Attributes:
        pairs: the institution among its peers.
    """

    pairs: Pairs

    def manifest(self, upload: bytes) -> bytes:
        """Make the signed manifest that is sent beside an upload."""
        return Manifest.of(upload).signed(self.pairs.own.signing).to_bytes()

    def require_made(self, question: SumQuestion, upload: bytes) -> None:
        """Refuse to help open a sum with an unsigned upload: invented uploads would leave few real ones.

        Args:
            question: question about the sum, with manifests of its uploads.
            upload: this institution's upload of the same round.

        Raises:
            IntegrityError: an upload is not signed, or not the one that was signed.
        """
        header = replace(read_header(upload), contributors=len(question.uploads))
        entries = [Entry(member, upload_id, b"") for member, upload_id in sorted(question.uploads.items())]
        require_manifests(self.pairs.roster, header, entries, question.manifests)

    def keep_evidence(
        self, folder: Path, error: IntegrityError, aggregate: Aggregate, own: bytes, roster: Roster
    ) -> Path | None:
        """Write a refused sum into the institution's folder; see `dictpfl.client.defences.evidence.Evidence`.

        `roster`: members of the sum's epoch, which may be an older one; None is returned where this institution had other keys in it.
        """
        try:
            number = roster.number(self.pairs.own.name, self.pairs.own.public.receiving)
        except ConfigError:
            return None
        evidence = Evidence(error.reason, str(error), number, roster, aggregate, own)
        return keep(folder, evidence, self.pairs.own.signing)


def integrity_of(pairs: Pairs, *, wanted: bool) -> Integrity | None:
    """Make an institution's integrity; None where its federation wants no manifests."""
    return Integrity(pairs) if wanted else None
