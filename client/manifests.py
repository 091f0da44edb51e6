"""What a sum is said to be made of, checked before it is opened; and its tags, checked after."""

from __future__ import annotations

from collections.abc import Sequence

from common.circle import Roster
from common.errors import CorruptError, IntegrityError
from common.genesis import Genesis
from common.ledger import Ledger, ledger_size
from common.manifest import Manifest, separated
from common.packing import Ints
from common.protocol import Aggregate
from common.tagging import TAGS, require_tagged, tag_key
from common.wire import Header, kind_number


def require_whole(genesis: Genesis, header: Header, manifests: Sequence[Manifest], opened: Ints) -> Ints:
    """Opened components of a sum without their tags, which must fit the uploads that are named.

    Args:
        opened: of one upload's length, tags included, shape (n + 2,).

    Raises:
        IntegrityError: another number of uploads is in it, or something else than these. RoundError: no ledger.
    """
    ledger = Ledger.read(opened[: ledger_size(len(genesis.layout.entries))])
    if ledger.participants != header.contributors:
        raise IntegrityError(
            "count",
            f"the coordinator names {header.contributors} contributors, the encrypted ledger counts {ledger.participants}; an "
            "upload was dropped, repeated or invented. Nothing was applied",
        )
    key = tag_key(genesis.seed, header.fingerprint, header.kind, header.round)
    require_tagged(opened, key, [(manifest.member, manifest.upload_id) for manifest in manifests])
    return opened[:-TAGS]


def require_manifests(roster: Roster | None, header: Header, aggregate: Aggregate, own: bytes = b"") -> list[Manifest]:
    """What a sum is said to be made of, each upload signed by its maker, for this round, and none twice.

    Args:
        roster: of the epoch that the round was in; None: who looks has none, and signatures are not checked.
        header: of the aggregate. `own`: the manifest of the institution that looks, if it knows one for this round.

    Raises:
        IntegrityError: its `reason` says what is wrong.
    """
    try:
        manifests = separated(aggregate.manifests)
    except CorruptError as error:
        raise IntegrityError("form", str(error)) from error
    for manifest in manifests:
        if roster is not None:
            _require_signed(roster, manifest)
        _require_for(manifest, header)
    members = [manifest.member for manifest in manifests]
    if repeated := sorted({m for m in members if members.count(m) > 1}):
        raise IntegrityError(
            "repeated", f"members {repeated} are named more than once in the sum of round {header.round}"
        )
    _require_counted(manifests, header, aggregate)
    _require_own(manifests, aggregate, own)
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


def _require_counted(manifests: Sequence[Manifest], header: Header, aggregate: Aggregate) -> None:
    if sorted(m.upload_id for m in manifests) != sorted(aggregate.counted) or len(manifests) != header.contributors:
        raise IntegrityError(
            "count",
            f"{header.contributors} uploads are said to be in the sum, {len(aggregate.counted)} are acknowledged, for "
            f"{len(manifests)} there are manifests, or not for the same ones",
        )


def _require_own(manifests: Sequence[Manifest], aggregate: Aggregate, own: bytes) -> None:
    if not own:
        return
    mine = Manifest.of_bytes(own)
    named = [m for m in manifests if m.upload_id == mine.upload_id]
    if mine.upload_id in aggregate.counted and named != [mine]:
        raise IntegrityError("altered", "this institution's upload is named with another content than it was sent with")
