"""Sum of a round's uploads, added as they arrive. A refused upload changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dictpfl.common.ckks.adding import ClearSum, WordSum
from dictpfl.common.errors import CorruptError, WireError
from dictpfl.common.messages.manifest import Manifest, joined
from dictpfl.common.messages.masks import Note
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import AGGREGATE, UPLOAD, Blob, Entry, Header, write
from dictpfl.server.agreement import Agreement
from dictpfl.server.masks import Contribution

MARK = 8
"""Bytes of an upload id that are the same in every upload of an institution for a round.

By them two copies of one institution (a backup restored beside the running one) count once."""
_NOBODY: Mapping[bytes, int] = {}
_Plan = tuple[bytes, int, int]
"""Tag of the shared state, number of words, clear bytes: equal for uploads that may be added."""


@dataclass
class Tally:
    """Uploads made from the same shared state, by the same plan."""

    sealed: WordSum
    clear: ClearSum
    uploads: dict[int, Entry] = field(default_factory=dict)
    """Entry of an upload by node."""
    notes: dict[int, Note] = field(default_factory=dict)
    """Note on an upload's masks by node."""
    manifests: dict[int, Manifest] = field(default_factory=dict)
    """Signed manifest of an upload by node."""


class Fold:
    """Sum of the open round.

    Uploads whose tag (or size) differs were made from another shared state: they are never added together. The sum
    with the most uploads counts; the others are reported as drifted, so that one institution that fell
    out of step spoils nothing, whoever comes first.
    """

    def __init__(
        self,
        agreement: Agreement,
        kind: RoundKind,
        number: int,
        attempt: int = 0,
        owners: Mapping[bytes, int] = _NOBODY,
    ) -> None:
        """Begin with nothing.

        Args:
            agreement: of the federation.
            kind: kind of the round.
            number: its number.
            attempt: number of the attempt at it.
            owners: member behind each upload id that others have been told in earlier attempts.
        """
        self._agreement = agreement
        self._kind = kind
        self._round = number
        self._attempt = attempt
        self._members: set[int] = set()
        """Members whose uploads are in a sum."""
        self._sums: dict[_Plan, Tally] = {}
        self._nodes: set[int] = set()
        self._marks: set[bytes] = set()
        self._owners = {upload[:MARK]: member for upload, member in owners.items()}
        self.seconds = 0.0
        self.bytes_up = 0

    def add(self, node: int, data: bytes, defence: bytes = b"", manifest: bytes = b"") -> None:
        """Validate an upload and add it.

        Args:
            node: who sent it.
            data: the upload, on the wire.
            defence: its note on masks, where institutions mask.
            manifest: its signed manifest, where institutions sign.

        Raises:
            WireError: one of its subclasses; nothing is folded.
        """
        began = time.perf_counter()
        try:
            blob = Blob.parse(data, self._agreement.uploads, direction=UPLOAD, kind=self._kind, round=self._round)
            if blob.header.attempt != self._attempt:
                raise WireError(
                    f"an upload for attempt {blob.header.attempt}, expected {self._attempt}", code="wrong-round"
                )
            self._add(node, blob, self._note(defence, blob.entries[0]), self._manifest(manifest, data))
            self.bytes_up += len(data) + len(defence) + len(manifest)
        finally:
            self.seconds += time.perf_counter() - began

    def _note(self, data: bytes, entry: Entry) -> Note | None:
        if not self._agreement.masks:
            return None
        note = Note.of_bytes(data)
        if (note.attempt, note.member) != (self._attempt, entry.member):
            raise WireError(
                f"a note on masks of member {note.member} for attempt {note.attempt} beside an upload of member {entry.member} for "
                f"attempt {self._attempt}",
                code="wrong-round",
            )
        members = len(self._agreement.members)
        if members and max(note.partners) >= members:
            # They would count as missing, and so many missing ones that all others refuse to tell anything.
            raise CorruptError(
                f"a note on masks with partner {max(note.partners)}, expected members below {members}: compare bundles"
            )
        return note

    def _manifest(self, data: bytes, upload: bytes) -> Manifest | None:
        """Check what institutions will check, too: one bad manifest would have them refuse the whole sum."""
        signers = self._agreement.signers
        if not signers:
            return None
        manifest = Manifest.of_bytes(data)
        if replace(manifest, signature=b"") != Manifest.of(upload):
            raise CorruptError("a manifest of another upload than it came with")
        if manifest.member >= len(signers) or not manifest.signed_by(bytes.fromhex(signers[manifest.member])):
            raise CorruptError(
                "a manifest that no member has signed: compare the epochs of coordinator and institution"
            )
        return manifest

    def _add(self, node: int, blob: Blob, note: Note | None, manifest: Manifest | None) -> None:
        header, (entry,) = blob.header, blob.entries
        mark = entry.upload_id[:MARK]
        if node in self._nodes or mark in self._marks or entry.member in self._members:
            raise WireError(
                "this upload, or another one of the same institution, is already in the sum", code="duplicate"
            )
        if self._owners.get(mark, entry.member) != entry.member:
            raise WireError(
                f"an upload of member {entry.member} under an id that member {self._owners[mark]}'s had in an earlier attempt",
                code="duplicate",
            )
        if len(self._nodes) >= self._agreement.uploads.max_contributors:
            raise WireError(
                f"the sum already holds {len(self._nodes)} uploads, as many as its digits allow", code="oversized"
            )
        plan = (header.state_tag, header.words, header.clear_length)
        total = self._sums.get(plan) or Tally(WordSum(self._agreement.parameters.word_prime), ClearSum())
        # Both sections are checked before either is added: no half of an upload is ever in the sum.
        sealed, clear = total.sealed.load(blob.words()), total.clear.load(blob.clear)
        total.sealed.add(sealed)
        total.clear.add(clear)
        self._sums[plan] = total
        total.uploads[node] = entry
        if note is not None:
            total.notes[node] = note
        if manifest is not None:
            total.manifests[node] = manifest
        self._members.add(entry.member)
        self._nodes.add(node)
        self._marks.add(mark)

    @property
    def count(self) -> int:
        """Uploads in the largest sum."""
        return max((len(total.uploads) for total in self._sums.values()), default=0)

    @property
    def tag(self) -> bytes:
        """Tag of the shared state that the sum that counts was made from."""
        return self._chosen()[0]

    def nodes(self) -> list[int]:
        """Nodes whose uploads are in the sum that counts."""
        return list(self._sums[self._chosen()].uploads)

    def member(self, node: int) -> int:
        """Return the member that a node's upload in the sum that counts names."""
        return self._sums[self._chosen()].uploads[node].member

    def contributions(self) -> list[Contribution]:
        """Masked uploads of the sum that counts."""
        total = self._sums[self._chosen()]
        return [Contribution(total.uploads[node].upload_id, note, node) for node, note in total.notes.items()]

    def contradicted(self) -> list[int]:
        """Nodes to leave out of the sum that counts, so that the notes of all others agree on what each pair is masked with.

        Of two notes that differ one is wrong, and not because it came later: whom most others contradict is left out, until
        nobody is contradicted. Where two stand alone against each other, each has its turn, by the number of the round: neither
        can have the other left out for good.
        """
        notes = self._sums[self._chosen()].notes
        nodes = {note.member: node for node, note in notes.items()}
        disputes = _disputes({note.member: note for note in notes.values()})
        turn = 1 if self._round % 2 else -1
        out: list[int] = []
        while disputes:
            worst = max(disputes, key=lambda member: (len(disputes[member]), turn * member))
            for other in disputes.pop(worst):
                disputes[other].discard(worst)
                if not disputes[other]:
                    del disputes[other]
            out.append(nodes[worst])
        return out

    def manifests(self) -> bytes:
        """Manifests of the uploads in the sum that counts, joined."""
        return joined(list(self._sums[self._chosen()].manifests.values()))

    def drifted(self) -> list[int]:
        """Nodes whose uploads are not in the sum that counts."""
        chosen = self._chosen()
        return [node for plan, total in self._sums.items() if plan != chosen for node in total.uploads]

    def aggregate(self) -> tuple[bytes, tuple[bytes, ...], int]:
        """Close the sum that counts: return its blob, the ids of the uploads in it, and its number of ciphertexts."""
        began = time.perf_counter()
        plan = self._chosen()
        (state_tag, words, _), total, limits = plan, self._sums[plan], self._agreement.uploads
        header = Header(
            AGGREGATE, self._kind, self._round, self._attempt, limits.federation, limits.fingerprint, state_tag
        )
        entries = tuple(total.uploads.values())
        blob = write(header, entries, total.sealed.total(), limits.word_bits, total.clear.total())
        self.seconds += time.perf_counter() - began
        ciphertexts = -(-words // self._agreement.parameters.ring_degree)
        return blob, tuple(sorted(entry.upload_id for entry in entries)), ciphertexts

    def _chosen(self) -> _Plan:
        return max(self._sums, key=lambda plan: len(self._sums[plan].uploads))


def _disputes(notes: Mapping[int, Note]) -> dict[int, set[int]]:
    """Find, for each member whose note another one contradicts, who does: they do not name the same stream for their pair."""
    found: dict[int, set[int]] = {}
    for number, note in notes.items():
        for partner, said in note.partners.items():
            if partner not in notes:
                continue
            seen = notes[partner].partners.get(number)
            if seen is None or seen.commitment != said.commitment:
                found.setdefault(number, set()).add(partner)
                found.setdefault(partner, set()).add(number)
    return found
