"""One round's exchange with this project's own classes, for benchmarks: institutions seal, the coordinator folds, one opens.

Imports neither torch nor Flower, so that a process that measures its memory holds nothing but what is measured.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.keys import make_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.law.ledger import Ledger, LedgerForm
from dictpfl.common.law.packing import Digits, pack, unpack
from dictpfl.common.law.tags import TAGS, RoundTags
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.common.messages.wire import (
    AGGREGATE,
    ENTRY_BYTES,
    HEADER_BYTES,
    UPLOAD,
    Blob,
    Entry,
    Header,
    Limits,
    write,
)
from dictpfl.common.protection import Encryption
from dictpfl.common.rounds import Grid
from dictpfl.common.words import Words, pack_words, packed_length
from dictpfl.server.agreement import Agreement
from dictpfl.server.folding import Fold

VALUE_BITS = 8
"""Bits of a value where nothing else is said."""
FEDERATION = hashlib.sha256(b"dictpfl benchmark").digest()
"""The federation that uploads name."""
_STATE = hashlib.sha256(b"one shared state").digest()
_SEED = hashlib.sha256(b"seed of the epoch").digest()


class Exchange:
    """A federation of `participants` that exchanges integers of `value_bits`, whole blobs of `dictpfl.common.messages.wire` included.

    Attributes:
        parameters: CKKS parameters, chosen as a founded federation chooses them.
        digits: how values lie in components.
        largest: largest magnitude of a value.
    """

    def __init__(self, participants: int, value_bits: int = VALUE_BITS, encryption: Encryption | None = None) -> None:
        self.participants, self.value_bits = participants, value_bits
        self.parameters = CKKSParameters.choose(encryption or Encryption(), participants, value_bits)
        payload = self.parameters.payload_bits
        self.digits = Digits.fit(value_bits, participants, payload)
        self.first_digits = Digits.fit(max(Grid().first_bits, value_bits), participants, payload)
        self.largest = 2 ** (value_bits - 1) - 1
        self.key = make_key(self.parameters)
        self.sealer, self.opener = CKKSSealer(self.key), CKKSOpener(self.key)

    @property
    def floor(self) -> float:
        """Bits that the sum of a value needs at least: log2 R, of R possible sums."""
        return float(np.log2(2 * self.participants * self.largest + 1))

    def values(self, count: int, institution: int = 0) -> Ints:
        """Integers over the whole range, int64, shape (count,); the same for the same institution."""
        return np.random.default_rng([count, institution]).integers(-self.largest, self.largest + 1, count)

    def components(self, values: int, tensors: int = 0, *, first: bool = False) -> int:
        """Components of an update with so many values, and the ledger of so many tensors before them (0: none).

        `first`: the first round of a federation, whose digits are wider.
        """
        digits = self.first_digits if first else self.digits
        return digits.components(values) + (self._form(tensors).size if tensors else 0)

    def ciphertexts(self, values: int, tensors: int = 0, *, first: bool = False) -> int:
        """Ciphertexts of such an update."""
        return self.parameters.ciphertexts(self.components(values, tensors, first=first))

    def words(self, values: int, tensors: int = 0, *, first: bool = False) -> int:
        """Words of such an update, tags included."""
        return self.parameters.words(self.components(values, tensors, first=first)) + TAGS

    def bytes_up(self, values: int, tensors: int = 0, *, first: bool = False) -> int:
        """Bytes of the blob that an institution uploads: exact, since nothing in it depends on values."""
        return self._length(self.words(values, tensors, first=first), 1)

    def bytes_down(self, values: int, tensors: int = 0, *, first: bool = False) -> int:
        """Bytes of the blob that the coordinator sends back."""
        return self._length(self.words(values, tensors, first=first), self.participants)

    def _length(self, words: int, uploads: int) -> int:
        return HEADER_BYTES + uploads * ENTRY_BYTES + packed_length(words, self.parameters.word_bits)

    def prepare(self, count: int) -> None:
        """What an institution does while it waits: encryptions of zero for `count` values."""
        self.sealer.prepare(self.ciphertexts(count))

    def upload(self, values: Ints, tensors: int = 0, member: int = 0) -> bytes:
        """One institution's blob: pack, seal, tag, header; with a ledger when there are tensors."""
        components = pack(values, self.digits)
        if tensors:
            codes = np.zeros(tensors, dtype=np.int64)
            ledger = Ledger(1, 100, 100.0, 10, 10.0, 5.0, codes)
            components = np.concatenate([self._form(tensors).write(ledger), components])
        sealed = self.sealer.seal(components)
        header, entry = self._header(UPLOAD), Entry(member, os.urandom(16), sealed.seed)
        words = np.concatenate([sealed.words, self._tags(header).made(sealed.words, b"", entry)])
        return write(header, [entry], words, self.parameters.word_bits)

    def stream(self, blocks: Iterator[Ints]) -> Iterator[bytes]:
        """The words of a vector that never exists as a whole, packed: of each block, back to back.

        A block of `block_values` fills its ciphertexts and whole bytes, so that their length is that of the whole vector.
        """
        for block in blocks:
            yield pack_words(self.sealer.seal(pack(block, self.digits)).words, self.parameters.word_bits)

    @property
    def block_values(self) -> int:
        """Values that fill 64 ciphertexts exactly."""
        return 64 * self.parameters.components * self.digits.per_component

    def fold(self, values: int, tensors: int = 0) -> Fold:
        """The coordinator's own open round, for uploads of so many values at most."""
        return Fold(self.agreement(self.words(values, tensors)), RoundKind.UPDATE, 1)

    def open(self, aggregate: bytes, count: int, tensors: int = 0) -> Ints:
        """The sums that one institution reads from the coordinator's blob, int64, shape (count,), once its tags fit."""
        components, limits = self.components(count, tensors), self.limits(self.words(count, tensors))
        blob = Blob.parse(aggregate, limits, direction=AGGREGATE, kind=RoundKind.UPDATE, round=1)
        words = self.authentic(blob)
        opened = self.opener.open(words, [entry.seed for entry in blob.entries], components)
        head = self._form(tensors).size if tensors else 0
        return unpack(opened[head:], count, self.digits)

    def authentic(self, blob: Blob) -> Words:
        """Check the tags of a sum; return its words without them."""
        words = blob.words()
        if not self._tags(blob.header).fit(words[:-TAGS], blob.clear, words[-TAGS:], blob.entries):
            raise AssertionError("the tags of an honest sum do not fit")
        return words[:-TAGS]

    def _form(self, tensors: int) -> LedgerForm:
        return LedgerForm(tensors, self.participants, self.parameters.payload_bits)

    def _header(self, direction: int) -> Header:
        return Header(direction, RoundKind.UPDATE, 1, 0, FEDERATION, self.key.fingerprint, _STATE)

    def _tags(self, header: Header) -> RoundTags:
        return RoundTags.of(_SEED, header, self.parameters.word_prime)

    def limits(self, words: int) -> Limits:
        """Limits of uploads and sums of so many words at most."""
        parameters = self.parameters
        return Limits(FEDERATION, self.key.fingerprint, parameters.word_bits, words, 0, self.participants)

    def agreement(self, words: int) -> Agreement:
        """The coordinator's half of the agreement."""
        return Agreement(
            parameters=self.parameters, encrypted=True, uploads=self.limits(words), rounds=1, score_rounds=0,
            min_participants=min(3, self.participants), deadline_seconds=3600.0, insecurities=(),
        )  # fmt: skip


class Memory:
    """Peak resident memory of this process, by Linux's own high-water mark, which can be set back."""

    def __init__(self) -> None:
        self._base = 0
        self.restart()

    def restart(self) -> None:
        """Forget the peak so far; what is in memory now is the base."""
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._base = _status("VmRSS")

    def peak(self) -> int:
        """Bytes above the base at the highest since `restart`."""
        return max(0, _status("VmHWM") - self._base)

    @property
    def base(self) -> int:
        """Bytes that were resident at `restart`: interpreter, libraries, key."""
        return self._base


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}: memory can be measured on Linux only")
