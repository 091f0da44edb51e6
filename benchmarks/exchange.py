"""One round's exchange with this project's own classes, for benchmarks: institutions seal, the coordinator folds, one opens.

Imports neither torch nor Flower, so that a process that measures its memory holds nothing but what is measured.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.adding import Adder, ckks_adder
from common.keys import make_key
from common.ledger import Ledger, ledger_size
from common.opening import CKKSOpener
from common.packing import Digits, Ints, pack, unpack
from common.parameters import CKKSParameters
from common.protocol import RoundKind
from common.sealing import CKKSSealer
from common.seeded import SEED_LENGTH
from common.settings import Encryption
from common.wire import AGGREGATE, HEADER_BYTES, UPLOAD, Blob, Header, Limits, write
from server.agreement import Agreement
from server.folding import Fold

VALUE_BITS = 8
"""The default of `grid.value_bits`."""
_FEDERATION = hashlib.sha256(b"dictpfl benchmark").digest()
_TAG = hashlib.sha256(b"one shared state").digest()


class Exchange:
    """A federation of `participants` that exchanges integers of `value_bits`, whole blobs of `common.wire` included.

    Attributes:
        parameters: CKKS parameters, chosen as a founded federation chooses them.
        digits: how values lie in components. `largest`: largest magnitude of a value.
        item_up, item_down: bytes of an uploaded ciphertext, and of one in the sum of all participants' uploads.
    """

    def __init__(self, participants: int, value_bits: int = VALUE_BITS, encryption: Encryption | None = None) -> None:
        self.participants, self.value_bits = participants, value_bits
        self.parameters = CKKSParameters.choose(encryption or Encryption(), participants)
        self.digits = Digits.fit(value_bits, participants, self.parameters.payload_bits)
        self.wide = Digits.wide(participants, self.parameters.payload_bits)
        self.largest = 2 ** (value_bits - 1) - 1
        self.key = make_key(self.parameters)
        self.sealer, self.opener = CKKSSealer(self.key), CKKSOpener(self.key)
        (item,) = self.sealer.seal(np.zeros(1, dtype=np.int64))
        adder = self.adder()
        for _ in range(participants):
            adder.add(adder.load(memoryview(item), len(item)))
        self.item_up, self.item_down = len(item), len(adder.total()[0])

    def values(self, count: int, institution: int = 0) -> Ints:
        """Integers over the whole range, int64, shape (count,); the same for the same institution."""
        return np.random.default_rng([count, institution]).integers(-self.largest, self.largest + 1, count)

    def ciphertexts(self, values: int, tensors: int = 0, *, first: bool = False) -> int:
        """Ciphertexts of an update with so many values, and the ledger of so many tensors before them (0: none).

        `first`: the first round of a federation, whose digits are wide.
        """
        digits = self.wide if first else self.digits
        return self.parameters.ciphertexts(digits.components(values) + (ledger_size(tensors) if tensors else 0))

    def bytes_up(self, values: int, tensors: int = 0, *, first: bool = False) -> int:
        """Bytes of the blob that an institution uploads: exact, since all ciphertexts have one length."""
        return HEADER_BYTES + self.ciphertexts(values, tensors, first=first) * self.item_up

    def bytes_down(self, values: int, tensors: int = 0, *, first: bool = False) -> int:
        """Bytes of the blob that the coordinator sends back."""
        return HEADER_BYTES + self.ciphertexts(values, tensors, first=first) * self.item_down

    def prepare(self, count: int) -> None:
        """What an institution does while it waits: encryptions of zero for `count` values."""
        self.sealer.prepare(self.ciphertexts(count))

    def expect(self, upload: bytes, count: int) -> None:
        """What an institution does while it waits for the sum that its upload will be in."""
        end = HEADER_BYTES + self.ciphertexts(count) * self.item_up
        self.opener.expect(memoryview(upload)[HEADER_BYTES:end])

    def upload(self, values: Ints, tensors: int = 0) -> bytes:
        """One institution's blob: pack, seal, header; with a ledger when there are tensors."""
        components = pack(values, self.digits)
        if tensors:
            codes = np.zeros(tensors, dtype=np.int64)
            ledger = Ledger(1, 100, 100.0, 10, 10.0, 5.0, codes)
            components = np.concatenate([ledger.components(self._bound), components])
        header = Header(
            UPLOAD,
            RoundKind.UPDATE,
            1,
            _FEDERATION,
            self.key.fingerprint,
            _TAG,
            upload_id=os.urandom(16),
            contributors=1,
        )
        return write(header, self.sealer.seal(components))

    def stream(self, blocks: Iterator[Ints]) -> Iterator[bytes]:
        """The ciphertexts of a vector that never exists as a whole: of each block, back to back.

        A block of `block_values` fills its ciphertexts, so that their number is that of the whole vector.
        """
        for block in blocks:
            yield from self.sealer.seal(pack(block, self.digits))

    @property
    def block_values(self) -> int:
        """Values that fill 64 ciphertexts exactly."""
        return 64 * self.parameters.components * self.digits.per_component

    def adder(self) -> Adder:
        """The coordinator's sum, without its checks of blobs."""
        return ckks_adder(self.parameters)

    def fold(self, ciphertexts: int) -> Fold:
        """The coordinator's own open round, for uploads of so many ciphertexts at most."""
        return Fold(self._agreement(ciphertexts), RoundKind.UPDATE, 1)

    def open(self, aggregate: bytes, count: int, tensors: int = 0) -> Ints:
        """The sums that one institution reads from the coordinator's blob, int64, shape (count,)."""
        seeded = self.parameters.seeded_sums
        limits = self._limits(self.item_up if seeded else self.item_down, self.ciphertexts(count, tensors))
        limits = replace(limits, seed_length=SEED_LENGTH if seeded else 0)
        blob = Blob.parse(aggregate, limits, direction=AGGREGATE, kind=RoundKind.UPDATE, round=1)
        opened = self.opener.open(blob.sealed, blob.header.item_length)
        head = ledger_size(tensors) if tensors else 0
        return unpack(opened[head : head + self.digits.components(count)], count, self.digits)

    @property
    def _bound(self) -> int:
        return int((2 ** (self.parameters.payload_bits - 1) - 1) // self.participants)

    def _limits(self, length: int, items: int) -> Limits:
        return Limits(_FEDERATION, self.key.fingerprint, length, items, 0, self.participants)

    def _agreement(self, items: int) -> Agreement:
        limits = self._limits(self.item_up, items)
        return Agreement(self.parameters, True, limits, self.item_down, 1, 0, min(3, self.participants), 3600.0)


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
