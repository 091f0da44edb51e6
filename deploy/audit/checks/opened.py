"""Uploads of a run under its key: parsed, masks taken off, decrypted; what all other checks work on."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dictpfl.common.arrays import Ints
from dictpfl.common.errors import DictPFLError
from dictpfl.deploy.audit.cipher.masks import Masker
from dictpfl.deploy.audit.cipher.sealed import Box, Opened, plain_components
from dictpfl.deploy.audit.cipher.tags import TAGS
from dictpfl.deploy.audit.folder import Party, RunFolder
from dictpfl.deploy.audit.formats.blobs import UPLOAD, Blob, Entry
from dictpfl.deploy.audit.formats.streams import Words
from dictpfl.deploy.audit.formats.words import packed


@dataclass(frozen=True)
class Upload:
    """Recorded upload under the key.

    Attributes:
        name: name of its file.
        party: institution whose mark it carries.
        blob: upload as it was sent.
        bare: words without masks, tags included, uint64.
        inside: decrypted content.
    """

    name: str
    party: Party
    blob: Blob
    bare: Words = field(repr=False)
    inside: Opened = field(repr=False)

    @property
    def entry(self) -> Entry:
        """Entry of the upload."""
        return self.blob.entries[0]

    @property
    def components(self) -> Ints:
        """Decrypted components."""
        return self.inside.components


class Opening:
    """Recorded uploads, opened; what does not open is told in `faults`."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self.parameters = run.agreement.parameters
        self.faults: list[str] = []

    @cached_property
    def box(self) -> Box | None:
        """Key of the run at work; None where nothing is encrypted."""
        keys = self._run.keys
        return Box(self._run.agreement.parameters, keys[0].secret) if keys else None

    @cached_property
    def blobs(self) -> Mapping[str, Blob]:
        """Uploads that parse, by file name; each content once, though it may have been sent again."""
        parameters = self._run.agreement.parameters
        blobs, seen = {}, set()
        for name, data in self._run.uploads:
            if data in seen:
                continue
            seen.add(data)
            try:
                blob = Blob.parse(data, parameters.word_bits, parameters.p)
                if blob.direction == UPLOAD:
                    blobs[name] = blob
                else:
                    self.faults.append(f"{name}: no upload")
            except DictPFLError as error:
                self.faults.append(f"{name}: {error}")
        return blobs

    @cached_property
    def maskers(self) -> Mapping[int, Masker]:
        """Derivation of each member's masks, by its number; empty where there are no masks."""
        agreement = self._run.agreement
        return {p.number: p.masker(agreement) for p in self._run.parties} if agreement.masked else {}

    @cached_property
    def uploads(self) -> list[Upload]:
        """Uploads whose maker is known and that could be decrypted."""
        made = []
        for name, blob in self.blobs.items():
            party = maker(self._run, blob)
            if party is None:
                self.faults.append(f"{name}: its id carries no institution's mark")
                continue
            try:
                bare = self._bare(blob)
                made.append(Upload(name, party, blob, bare, self.opened(bare[:-TAGS], [blob.entries[0].seed])))
            except DictPFLError as error:
                self.faults.append(f"{name}: {error}")
        return made

    def opened(self, words: Words, seeds: list[bytes]) -> Opened:
        """Decrypt the words of an upload or a sum, tags left out.

        Raises:
            OpeningError: words that no number of components gives.
        """
        if self.box is None:
            components = plain_components(self._run.agreement.parameters, words)
            return Opened(components, components[:0], components[:0])
        return self.box.opened(words, seeds)

    def _bare(self, blob: Blob) -> Words:
        masker = self.maskers.get(blob.entries[0].member)
        return masker.taken_off(blob, self._run.agreement.parameters.p) if masker else blob.words


def maker(run: RunFolder, blob: Blob) -> Party | None:
    """Find the institution whose mark an upload's id begins with."""
    said = blob.entries[0].upload_id
    return next((party for party in run.parties if said.startswith(mark(party.secret, blob.round))), None)


def mark(secret: bytes, number: int) -> bytes:
    """First half of the ids of an institution's uploads for a round, 8 bytes."""
    return hmac.digest(secret, b"upload" + number.to_bytes(8, "little"), "sha256")[:8]


def item_mark(secret: bytes, blob: Blob, bare: Words, bits: int) -> bytes:
    """Second half of an upload's id, 8 bytes, from its ciphertexts; `bare`: their words, without masks and tags."""
    kind = {"update": 1, "score": 2, "measure": 3}[blob.kind]
    items = blob.entries[0].seed + packed(bare, bits) + blob.clear.astype("<i4").tobytes()
    said = b"items" + bytes([kind]) + blob.round.to_bytes(8, "little") + hashlib.sha256(items).digest()
    return hmac.digest(secret, said, "sha256")[:8]
