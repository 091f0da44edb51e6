"""Tags: two linear hashes of an upload's words under keys of the round, and a pad for each upload (section 7)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dictpfl.deploy.audit.formats.blobs import Blob, Entry
from dictpfl.deploy.audit.formats.streams import Words, expand, raw_words

TAGS = 2


@dataclass(frozen=True)
class TagKey:
    """Key of a round's tags.

    Attributes:
        key: 64 random-looking bytes, half for each tag.
        prime: p, the modulus of words.
    """

    key: bytes
    prime: int

    def hashes(self, words: Iterable[int], count: int) -> list[int]:
        """Add up coefficient times word modulo p, for each tag; `count`: number of words."""
        listed = [int(word) for word in words]
        rows = [raw_words(self.key[32 * i : 32 * i + 32], count).tolist() for i in range(TAGS)]
        return [sum(k * w for k, w in zip(row, listed, strict=True)) % self.prime for row in rows]

    def pads(self, entry: Entry) -> list[int]:
        """Draw the terms that an upload adds to the tags of every sum that it is in."""
        sealed = hashlib.sha256(entry.seed).digest()
        drawn = expand(self.key, "upload", entry.member, entry.upload_id, sealed, length=16 * TAGS)
        return [int.from_bytes(drawn[16 * i : 16 * i + 16], "little") % self.prime for i in range(TAGS)]

    def tags(self, words: Words, clear: Sequence[int], entries: Sequence[Entry]) -> list[int]:
        """Compute the tags of ciphertext words and clear integers of the uploads that are listed."""
        totals = self.hashes([*words.tolist(), *(int(c) % self.prime for c in clear)], words.size + len(clear))
        for entry in entries:
            totals = [(t + pad) % self.prime for t, pad in zip(totals, self.pads(entry), strict=True)]
        return totals


def tag_key(seed: bytes, blob: Blob, prime: int) -> TagKey:
    """Derive the key of the round that a blob is of, from the epoch's seed."""
    context = (blob.federation, blob.fingerprint, blob.kind, blob.round, blob.attempt, blob.state_tag)
    return TagKey(expand(seed, "tag", *context, length=32 * TAGS), prime)
