"""Manifests of a sum: each upload in it signed by its maker, checked before anything is decrypted.

Tags (`dictpfl.common.law.tags`) hold against a coordinator alone. Signatures hold against one that an institution helps,
and others can verify them (docs/decisions/0029).
"""

from __future__ import annotations

from collections.abc import Sequence

from dictpfl.common.errors import CorruptError, IntegrityError
from dictpfl.common.law.members import Roster
from dictpfl.common.messages.manifest import Manifest, separated
from dictpfl.common.messages.wire import Entry, Header, kind_number


def require_manifests(roster: Roster, header: Header, entries: Sequence[Entry], data: bytes) -> list[Manifest]:
    """Read and check the manifests of a sum: each upload in it signed by its maker, for this round.

    Args:
        roster: members of the round's epoch.
        header: header of the aggregate.
        entries: uploads that the sum names.
        data: manifests, joined.

    Raises:
        IntegrityError: refused; its `reason` says why.
    """
    try:
        manifests = separated(data)
    except CorruptError as error:
        raise IntegrityError("form", str(error)) from error
    for manifest in manifests:
        _require_signed(roster, manifest)
        _require_for(manifest, header)
    if [(m.member, m.upload_id) for m in manifests] != [(entry.member, entry.upload_id) for entry in entries]:
        raise IntegrityError(
            "count",
            f"{len(entries)} uploads are in the sum, there are {len(manifests)} manifests, or not for the same ones",
        )
    return manifests


def _require_signed(roster: Roster, manifest: Manifest) -> None:
    if manifest.member >= len(roster.peers):
        raise IntegrityError("invented", f"a manifest of member {manifest.member}, of {len(roster.peers)} there are")
    peer = roster.peers[manifest.member]
    if not manifest.signed_by(peer.signing):
        raise IntegrityError("invented", f"a manifest in the name of {peer.name} that {peer.name} has not signed")


def _require_for(manifest: Manifest, header: Header) -> None:
    if manifest.federation != header.federation:
        raise IntegrityError("cross-federation", f"an upload to federation {manifest.federation.hex()[:12]} is named")
    wanted = (header.round, kind_number(header.kind), header.fingerprint)
    if (manifest.round, manifest.kind, manifest.fingerprint) != wanted:
        raise IntegrityError(
            "cross-round",
            f"an upload of round {manifest.round} is named in the sum of round {header.round}, or of another key",
        )
