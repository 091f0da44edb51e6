"""Ciphertexts as protocol 3 sent them, for comparison: whole polynomials of 64-bit words, a seed each, digits of whole bits.

Taken from the last commit that spoke it (f8cbe9d: common/ckks/{sealing,seeded,adding,opening,transform}.py), without what
only refuses bad input. Up to four uploads, sums carried the uploads' seeds; beyond, both polynomials.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.context import Scratch, context
from dictpfl.common.ckks.keys import load_secret, make_key
from dictpfl.common.ckks.parameters import GUARDS, CKKSParameters
from dictpfl.common.ckks.polynomials import data_prime
from dictpfl.common.protection import Encryption
from dictpfl.common.words import Words, add_modulo, centred, residues

_SEED_LENGTH = 64
_MOST_SEEDED = 4
_HEADER = bytes(232)
_PATTERN = bytes.fromhex("5ea1100403000000")


class Protocol3:
    """Sealing, folding and opening of protocol 3 among `participants` institutions."""

    def __init__(self, participants: int, value_bits: int) -> None:
        self.participants, self.largest = participants, 2 ** (value_bits - 1) - 1
        self._parameters: CKKSParameters = CKKSParameters.choose(Encryption(), participants, value_bits)
        self._scale = math.ceil(math.log2(8.5 * 3.2 * math.sqrt(participants) / 0.25))
        width = (participants * self.largest).bit_length() + 1
        self.per_component = (58 - self._scale) // width
        self._width = (58 - self._scale) // self.per_component
        self._degree, self._prime = self._parameters.ring_degree, data_prime(self._parameters)
        self._seeded = participants <= _MOST_SEEDED
        key, ctx = make_key(self._parameters), context(self._parameters)
        secret = load_secret(key)
        self._encryptor, self._decryptor = seal.Encryptor(ctx, secret), seal.Decryptor(ctx, secret)
        self._evaluator, self._scratch, self._out = seal.Evaluator(ctx), Scratch(), Scratch()
        self._nothing = seal.Plaintext()
        seal.CKKSEncoder(ctx).encode(0.0, 2.0**self._scale, self._nothing)
        self._zeros: list[bytearray] = []
        item = self._encrypted()
        self._at = self._start(item)
        self._tail = len(item) - self._at - 8 * self._degree - _SEED_LENGTH
        full = seal.Ciphertext()
        self._encryptor.encrypt_symmetric(self._nothing, full)
        blank = bytearray(self._scratch.bytes_of(full))
        self._full_at = self._start(blank)
        blank[self._full_at : self._full_at + 8 * self._degree] = bytes(8 * self._degree)
        self._blank, self._carrier = bytes(blank), Scratch()
        self._pair = self._carrier.fill(seal.Ciphertext(), self._parameters, self._blank)
        empty = self._encrypted()
        empty[self._at : self._at + 8 * self._degree] = bytes(8 * self._degree)
        self._expander = Scratch()
        self._drawn = self._expander.fill(seal.Ciphertext(), self._parameters, empty)

    def components(self, count: int) -> int:
        """Components of so many values."""
        return -(-count // self.per_component)

    def prepare(self, count: int) -> None:
        """Encrypt zero as often as an upload of so many values needs it."""
        while len(self._zeros) < self._parameters.ciphertexts(self.components(count)):
            made = [self._encrypted(), self._encrypted()]
            pair = np.stack([self._first(item, self._at) for item in made])
            self._carrier.refill(self._pair, self._parameters, pair.tobytes(), self._full_at)
            self._evaluator.transform_from_ntt_inplace(self._pair)
            saved = np.frombuffer(self._out.bytes_of(self._pair), "<u8", 2 * self._degree, self._full_at).reshape(2, -1)
            for item, coefficients in zip(made, saved, strict=True):
                self._first(item, self._at)[:] = coefficients
            self._zeros += made

    def upload(self, values: Ints) -> bytes:
        """Pack and seal, behind 232 bytes of header with a digest."""
        planes = np.zeros((self.per_component, self.components(values.size)), dtype=np.int64)
        planes.reshape(-1)[: values.size] = values
        packed: Ints = planes[-1].copy()
        for plane in planes[-2::-1]:
            packed <<= self._width
            packed += plane
        self.prepare(values.size)
        items = []
        for start in range(0, packed.size, self._parameters.components):
            part, item = packed[start : start + self._parameters.components], self._zeros.pop()
            scaled = residues(part << self._scale, self._prime)
            add_modulo(self._first(item, self._at)[: part.size], scaled, self._prime)
            items.append(bytes(item))
        return _blob(items)

    def fold(self, uploads: Sequence[bytes]) -> bytes:
        """Check digests and add."""
        total: Any = None
        length = 0
        for upload in uploads:
            assert hashlib.sha256(memoryview(upload)[len(_HEADER) :]).digest() == upload[:32]
            length = self._at + 8 * self._degree + _SEED_LENGTH + self._tail
            items = np.frombuffer(upload, np.uint8)[len(_HEADER) :].reshape(-1, length)
            if self._seeded:
                first = items[:, self._at : self._at + 8 * self._degree].copy().view("<u8")
                assert first.max() < self._prime
                if total is None:
                    total = [first, [items]]
                else:
                    add_modulo(total[0], first, self._prime)
                    total[1].append(items)
                continue
            loaded = [self._scratch.fill(seal.Ciphertext(), self._parameters, item.tobytes()) for item in items]
            if total is None:
                total = loaded
            else:
                for into, one in zip(total, loaded, strict=True):
                    self._evaluator.add_inplace(into, one)
        if not self._seeded:
            return _blob([self._scratch.bytes_of(item) for item in total])
        first, parts = total
        head = parts[0]
        return _blob([
            head[i, : self._at].tobytes() + first[i].tobytes() + head[i, self._at + 8 * self._degree : -_SEED_LENGTH].tobytes()
            + b"".join(part[i, -_SEED_LENGTH:].tobytes() for part in parts)
            for i in range(len(first))
        ])  # fmt: skip

    def open(self, aggregate: bytes, count: int) -> Ints:
        """Decrypt, round, check guards and tolerance, unpack: int64, shape (count,)."""
        assert hashlib.sha256(memoryview(aggregate)[len(_HEADER) :]).digest() == aggregate[:32]
        body, items = memoryview(aggregate)[len(_HEADER) :], self._parameters.ciphertexts(self.components(count))
        length, parts = len(body) // items, []
        for i in range(items):
            item = body[i * length : (i + 1) * length]
            first, ciphertext = self._split(item)
            plain = seal.Plaintext()
            self._decryptor.decrypt(ciphertext, plain)
            self._evaluator.add_plain_inplace(ciphertext, plain)
            self._evaluator.transform_from_ntt_inplace(ciphertext)
            words = np.frombuffer(self._out.bytes_of(ciphertext), "<u8", self._degree, self._full_at).astype(np.uint64)
            add_modulo(words, np.frombuffer(first, "<u8"), self._prime)
            noisy = centred(words, self._prime)
            integers = (noisy + np.int64(1 << (self._scale - 1))) >> self._scale
            assert not integers[-GUARDS:].any()
            assert np.abs(noisy - (integers << self._scale)).max() <= 2**self._scale / 4
            parts.append(integers[:-GUARDS])
        rest = np.concatenate(parts)[: self.components(count)]
        planes = np.empty((self.per_component, rest.size), dtype=np.int64)
        half, mask = np.int64(1 << (self._width - 1)), np.int64((1 << self._width) - 1)
        for plane in planes[:-1]:
            np.subtract((rest + half) & mask, half, out=plane)
            rest -= plane
            rest >>= self._width
        planes[-1] = rest
        return planes.reshape(-1)[:count]

    def _split(self, item: memoryview) -> tuple[memoryview, Any]:
        size = 8 * self._degree
        if not self._seeded:
            rest = bytearray(item)
            rest[self._full_at : self._full_at + size] = bytes(size)
            return item[self._full_at : self._full_at + size], self._scratch.fill(
                seal.Ciphertext(), self._parameters, rest
            )
        whole = self._at + size + self._tail + _SEED_LENGTH
        seeds = [item[at - _SEED_LENGTH : at] for at in range(whole, len(item) + 1, _SEED_LENGTH)]
        place = whole - _SEED_LENGTH
        total = self._expander.refill(seal.Ciphertext(), self._parameters, seeds[0], place)
        for one in seeds[1:]:
            self._evaluator.add_inplace(total, self._expander.refill(self._drawn, self._parameters, one, place))
        return item[self._at : self._at + size], total

    def _encrypted(self) -> bytearray:
        return bytearray(self._scratch.bytes_of(self._encryptor.encrypt_symmetric(self._nothing)))

    def _start(self, item: bytearray) -> int:
        start = max(item.find(_PATTERN + (24 + 8 * n).to_bytes(8, "little") + n.to_bytes(8, "little"))
                    for n in (self._degree, 2 * self._degree))  # fmt: skip
        return start + 24

    def _first(self, item: bytearray, start: int) -> Words:
        first: NDArray[np.uint64] = np.frombuffer(item, "<u8", self._degree, start)
        return first


def _blob(items: Sequence[bytes]) -> bytes:
    body = b"".join(items)
    return hashlib.sha256(body).digest() + _HEADER[32:] + body
