"""Votes of institutions on a snapshot, compared without a key: equal headers are agreement on every byte of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from dictpfl.common.errors import SnapshotError
from dictpfl.common.messages.snapshots import HEADER_BYTES, SnapshotHeader, body
from dictpfl.server.agreement import Agreement
from dictpfl.server.rows import Snapshot


def header_of(agreement: Agreement, number: int, data: bytes) -> SnapshotHeader:
    """Read the header of a snapshot of the state before a round.

    Raises:
        SnapshotError: damaged, too long, or of another federation, key or round.
    """
    header, limits = SnapshotHeader.read(data), agreement.uploads
    expected = (limits.federation, limits.fingerprint, agreement.epoch, number)
    if (header.federation, header.fingerprint, header.epoch, header.round) != expected:
        raise SnapshotError(f"a snapshot of another federation, key or round than {number}")
    most = agreement.snapshot_most(number)
    if HEADER_BYTES + header.length > most:
        raise SnapshotError(f"a snapshot of {HEADER_BYTES + header.length} bytes, at most {most} are admitted")
    return header


class SnapshotVotes:
    """Votes on the snapshot of the state before one round: headers of all, the whole of one or a few."""

    def __init__(self, agreement: Agreement, number: int) -> None:
        self._agreement = agreement
        self._round = number
        self._headers: dict[int, SnapshotHeader] = {}
        self._whole: dict[SnapshotHeader, bytes] = {}

    def take(self, node: int, data: bytes) -> None:
        """Take a header, or a header and what it stands for.

        Raises:
            SnapshotError: damaged, too long, or of another federation, key or round; nothing is taken.
        """
        header = header_of(self._agreement, self._round, data)
        if len(data) > HEADER_BYTES:
            body(header, data)
            self._whole = {header: data}  # one at a time: they are as large as the model
        self._headers[node] = header

    def agreed(self, nodes: Collection[int], least: int, tag: bytes | None = None) -> Snapshot | None:
        """Find the snapshot that enough nodes stand for, and most of those that said anything.

        Args:
            nodes: whose votes count.
            least: fewest nodes that must stand for it.
            tag: of the state that the round's sum was made from, if there is one.

        Returns:
            None where they do not agree, or where nobody sent the whole of what they agree on.
        """
        votes = Counter(header for node, header in self._headers.items() if node in nodes)
        if not votes:
            return None
        header, count = votes.most_common(1)[0]
        if count < least or 2 * count <= votes.total() or (tag is not None and header.tag != tag):
            return None
        data = self._whole.get(header)
        return Snapshot(header.round, header.updates, data) if data else None
