"""A round's uploads, added as they arrive. A refused upload changes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from common.adding import Adder, IntegerAdder, ckks_adder
from common.errors import CorruptError, DuplicateError, OversizedError, WrongRoundError
from common.manifest import Manifest, joined
from common.protocol import RoundKind
from common.revealing import Note
from common.wire import AGGREGATE, UPLOAD, Blob, Header, write
from server.agreement import Agreement
from server.unmasking import Contribution

MARK = 8
"""Bytes of an upload id that are the same in every upload of an institution for a round: two copies of one institution (a
backup restored beside the living) count once."""
_Plan = tuple[bytes, int, int]
"""Tag of the shared state, ciphertexts, clear bytes: what uploads in step have in common."""


@dataclass
class _Sum:
    """Uploads made from the same shared state, by the same plan."""

    sealed: Adder
    clear: IntegerAdder
    uploads: dict[int, bytes] = field(default_factory=dict)
    """Upload id by node."""
    notes: dict[int, Note] = field(default_factory=dict)
    """On masks, by node."""
    manifests: dict[int, Manifest] = field(default_factory=dict)
    """By node."""


class Fold:
    """The open round.

    Uploads whose tag (or size) differs were made from another shared state: they are never added together. The sum
    with the most uploads counts; the others are reported as drifted, so that one institution that fell
    out of step spoils nothing, whoever comes first.
    """

    def __init__(self, agreement: Agreement, kind: RoundKind, number: int, attempt: int = 0) -> None:
        self._agreement = agreement
        self._kind = kind
        self._round = number
        self._attempt = attempt
        self._notes: dict[int, Note] = {}
        self._members: set[int] = set()
        self._sums: dict[_Plan, _Sum] = {}
        self._nodes: set[int] = set()
        self._marks: set[bytes] = set()
        self.seconds = 0.0
        self.bytes_up = 0

    def add(self, node: int, data: bytes, defence: bytes = b"", manifest: bytes = b"") -> None:
        """Validate an upload and add it; `defence`, `manifest`: what came with it, where the federation wants them.

        Raises:
            WireError: one of its subclasses; nothing is folded.
        """
        began = time.perf_counter()
        try:
            blob = Blob.parse(data, self._agreement.uploads, direction=UPLOAD, kind=self._kind, round=self._round)
            self._add(node, blob, self._note(defence), self._manifest(manifest, data))
            self.bytes_up += len(data) + len(defence) + len(manifest)
        finally:
            self.seconds += time.perf_counter() - began

    def _note(self, data: bytes) -> Note | None:
        if not self._agreement.masks:
            return None
        note = Note.of_bytes(data)
        if note.attempt != self._attempt:
            raise WrongRoundError(f"an upload masked for attempt {note.attempt}, expected {self._attempt}")
        if note.member in self._notes:
            raise DuplicateError("an upload of this member is already in the sum")
        for number, partner in note.partners.items():
            other = self._notes.get(number)
            seen = other.partners.get(note.member) if other else None
            if other and (seen is None or seen.commitment != partner.commitment):
                raise CorruptError("an upload masked with streams that its partner does not have: compare bundles")
        return note

    def _manifest(self, data: bytes, upload: bytes) -> Manifest | None:
        """What institutions will check is checked here, too: one bad manifest would have them refuse the whole sum."""
        signers = self._agreement.signers
        if not signers:
            return None
        manifest = Manifest.of_bytes(data)
        if replace(manifest, signature=b"") != Manifest.of(manifest.member, upload):
            raise CorruptError("a manifest of another upload than it came with")
        if manifest.member >= len(signers) or not manifest.signed_by(bytes.fromhex(signers[manifest.member])):
            raise CorruptError(
                "a manifest that no member has signed: compare the epochs of coordinator and institution"
            )
        if manifest.member in self._members:
            raise DuplicateError("an upload of this member is already in the sum")
        return manifest

    def _add(self, node: int, blob: Blob, note: Note | None, manifest: Manifest | None) -> None:
        header = blob.header
        if header.contributors != 1:
            raise OversizedError(f"an upload that claims to hold {header.contributors} uploads")
        mark = header.upload_id[:MARK]
        if node in self._nodes or mark in self._marks:
            raise DuplicateError("this upload, or another one of the same institution, is already in the sum")
        if len(self._nodes) >= self._agreement.uploads.max_contributors:
            raise OversizedError(f"the sum already holds {len(self._nodes)} uploads, as many as its digits allow")
        plan = (header.tag, header.items, header.clear_length)
        total = self._sums.get(plan) or self._empty()
        # Both sections are checked before either is added: no half of an upload is ever in the sum.
        sealed = total.sealed.load(blob.sealed, header.item_length)
        clear = total.clear.load(blob.clear, header.clear_length)
        total.sealed.add(sealed)
        total.clear.add(clear)
        self._sums[plan] = total
        total.uploads[node] = header.upload_id
        if note is not None:
            total.notes[node] = self._notes[note.member] = note
        if manifest is not None:
            total.manifests[node] = manifest
            self._members.add(manifest.member)
        self._nodes.add(node)
        self._marks.add(mark)

    def _empty(self) -> _Sum:
        sealed: Adder = ckks_adder(self._agreement.parameters) if self._agreement.encrypted else IntegerAdder("<i8")
        return _Sum(sealed, IntegerAdder("<i4"))

    @property
    def count(self) -> int:
        """Uploads in the largest sum."""
        return max((len(total.uploads) for total in self._sums.values()), default=0)

    @property
    def tag(self) -> bytes:
        """Of the shared state that the sum that counts was made from."""
        return self._chosen()[0]

    def nodes(self) -> list[int]:
        """Nodes whose uploads are in the sum that counts."""
        return list(self._sums[self._chosen()].uploads)

    def contributions(self) -> list[Contribution]:
        """The masked uploads of the sum that counts."""
        total = self._sums[self._chosen()]
        return [Contribution(total.uploads[node], note, node) for node, note in total.notes.items()]

    def manifests(self) -> bytes:
        """Of the uploads in the sum that counts."""
        return joined(list(self._sums[self._chosen()].manifests.values()))

    def drifted(self) -> list[int]:
        """Nodes whose uploads are not in the sum that counts."""
        chosen = self._chosen()
        return [node for plan, total in self._sums.items() if plan != chosen for node in total.uploads]

    def aggregate(self) -> tuple[bytes, tuple[bytes, ...], int]:
        """The sum's blob, the upload ids in it, and its number of ciphertexts."""
        began = time.perf_counter()
        plan = self._chosen()
        (tag, items, _), total = plan, self._sums[plan]
        header = Header(
            AGGREGATE,
            self._kind,
            self._round,
            self._agreement.uploads.federation,
            self._agreement.uploads.fingerprint,
            tag,
            contributors=len(total.uploads),
        )
        blob = write(header, total.sealed.total(), b"".join(total.clear.total()))
        self.seconds += time.perf_counter() - began
        return blob, tuple(sorted(total.uploads.values())), items

    def _chosen(self) -> _Plan:
        return max(self._sums, key=lambda plan: len(self._sums[plan].uploads))
