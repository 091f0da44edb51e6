"""Tags: who opens a sum checks first that it is the sum of uploads that members made, each once, and nothing else.

Encrypt, then authenticate: a tag is linear in the words of an upload, as their sum is, so that the sum's tag is the sum of
the tags. Its key is the members' alone; the coordinator adds tags, and can make none (docs/decisions/0029).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from dictpfl.common.law.seeds import expand
from dictpfl.common.messages.wire import Entry, Header
from dictpfl.common.words import Words

TAGS = 2
"""Words of an upload that are tags. One would do against a prime of 60 bits; words have 40 to 54."""
_KEY = 32
_PAD = 16
_LIMBS = 4
_CHUNK = 2**13
"""Words at once: products of 16-bit limbs stay far below 2^53, where a float64 is exact, and the library starts no threads."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RoundTags:
    """Tags of the uploads of one attempt at a round.

    Attributes:
        key: secret of the round, 64 bytes: a key of 32 bytes for each tag.
        prime: prime p that words are residues of; tags are residues of it, too, since words wrap modulo p when added.
    """

    key: bytes = field(repr=False)
    prime: int

    @classmethod
    def of(cls, seed: bytes, header: Header, prime: int) -> Self:
        """Derive the round's key from the seed of the epoch, 32 bytes, and what the header says of federation, round and state.

        The state is bound, too: an upload that was made from one shared state fits no sum of those who hold another.
        """
        context = (
            header.federation, header.fingerprint, str(header.kind), header.round, header.attempt, header.state_tag,
        )  # fmt: skip
        return cls(expand(seed, "tag", *context, length=TAGS * _KEY), prime)

    def made(self, words: Words, clear: bytes | memoryview, entry: Entry) -> Words:
        """Make an upload's tags, uint64, shape (TAGS,).

        Args:
            words: words of its ciphertexts, below the prime, uint64, shape (n,).
            clear: its section that crosses in clear, int32.
            entry: how the sum will name it.
        """
        pads = self._pads(entry)
        return np.array(
            [(h + pad) % self.prime for h, pad in zip(self._hashes(words, clear), pads, strict=True)], np.uint64
        )

    def fit(self, words: Words, clear: bytes | memoryview, tags: Words, entries: Iterable[Entry]) -> bool:
        """Tell whether a sum, and the sum of tags with it, is that of exactly the named uploads.

        Anything else passes with a probability of about 1 / p^2, whatever the coordinator knows of other rounds.
        """
        expected = self._hashes(words, clear)
        for entry in entries:
            expected = [h + pad for h, pad in zip(expected, self._pads(entry), strict=True)]
        return bool([h % self.prime for h in expected] == tags.tolist())

    def _hashes(self, words: Words, clear: bytes | memoryview) -> list[int]:
        """Sum of coefficient times word, modulo the prime, for each tag."""
        open_words = (np.frombuffer(clear, dtype="<i4").astype(np.int64) % self.prime).astype(np.uint64)
        both = np.concatenate([words, open_words]) if open_words.size else words
        streams = [Cipher(AES(self.key[_KEY * i : _KEY * (i + 1)]), CTR(bytes(16))).encryptor() for i in range(TAGS)]
        totals = [0] * TAGS
        for start in range(0, both.size, _CHUNK):
            limbs = _limbs(both[start : start + _CHUNK].astype("<u8").tobytes())
            for i, stream in enumerate(streams):
                products = _limbs(stream.update(bytes(8 * len(limbs)))).T @ limbs
                totals[i] += sum(int(products[a, b]) << (16 * (a + b)) for a in range(_LIMBS) for b in range(_LIMBS))
        return [total % self.prime for total in totals]

    def _pads(self, entry: Entry) -> list[int]:
        """Return what one upload adds to the tags of every sum that it is in: its name and its seed, bound to them."""
        context = ("upload", entry.member, entry.upload_id, hashlib.sha256(entry.seed).digest())
        drawn = expand(self.key, *context, length=_PAD * TAGS)
        return [int.from_bytes(drawn[_PAD * i : _PAD * (i + 1)], "little") % self.prime for i in range(TAGS)]


def _limbs(words: bytes) -> Floats:
    """Split words of 64 bits into limbs of 16, lowest first: float64, shape (n, 4)."""
    return np.frombuffer(words, dtype="<u2").reshape(-1, _LIMBS).astype(np.float64)
