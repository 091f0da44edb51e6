"""Bytes there and back, and what the audit's readers refuse."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.ckks.keys import make_key, save_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.errors import CorruptError, KeyFileError
from dictpfl.deploy.audit.cipher.ring import Ring, ring_prime, wire_prime
from dictpfl.deploy.audit.formats.blobs import UPLOAD, Blob, Entry
from dictpfl.deploy.audit.formats.digits import Digits
from dictpfl.deploy.audit.formats.keyfile import polynomial, read_key, saved_key
from dictpfl.deploy.audit.formats.words import cut, packed, unpacked, widened


@given(st.integers(1, 60), st.lists(st.integers(0, 2**60), max_size=40))
def test_words_are_packed_and_unpacked(bits: int, numbers: list[int]) -> None:
    words = np.array([n % (1 << bits) for n in numbers], dtype=np.uint64)
    data = packed(words, bits)
    assert int.from_bytes(data, "little") == sum(int(w) << (i * bits) for i, w in enumerate(words))
    assert unpacked(data, words.size, bits).tolist() == words.tolist()


def test_unpacking_refuses_other_lengths_and_bits_behind_the_end() -> None:
    data = packed(np.array([1, 2], dtype=np.uint64), 7)
    for wrong in (data + b"\0", data[:-1], data[:-1] + bytes([data[-1] | 0x80])):
        with pytest.raises(CorruptError):
            unpacked(wrong, 2, 7)


@given(st.lists(st.integers(0, ring_prime(4096, 60) - 1), max_size=20), st.integers(40, 54))
def test_words_come_back_to_within_half_a_step(residues: list[int], bits: int) -> None:
    q, p = ring_prime(4096, 60), wire_prime(bits)
    for x, back in zip(residues, widened(cut(residues, q, p).tolist(), q, p).tolist(), strict=True):
        away = (back - x) % q
        assert min(away, q - away) <= q // (2 * p) + 1


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(1, 40), st.integers(0, 30), st.integers(0, 2**32))
def test_digits_of_sums_come_back(bits: int, capacity: int, count: int, seed: int) -> None:
    digits = Digits.most(2 ** (bits - 1) - 1, capacity, 48)
    wide = Digits.widest(digits.per_component, capacity, 48)
    assert wide.largest >= digits.largest
    assert wide.radix**wide.per_component < 2**48
    random = np.random.default_rng(seed)
    parts = [random.integers(-wide.largest, wide.largest + 1, count) for _ in range(capacity)]
    total = np.sum([wide.packed(part.tolist()) for part in parts], axis=0, dtype=np.int64)
    assert wide.unpacked(total, count).tolist() == np.sum(parts, axis=0).tolist()
    assert wide.whole(total)


def blob() -> Blob:
    words = np.arange(9, dtype=np.uint64)
    entries = [Entry(3, bytes(16), bytes(32))]
    return Blob(UPLOAD, "update", 7, 1, *[bytes(32)] * 3, entries, words, np.array([-1, 2]))


def test_blobs_come_back() -> None:
    data = blob().to_bytes(54)
    back = Blob.parse(data, 54, 2**54 - 33)
    assert (len(data), back.round, back.attempt, back.kind) == (168 + 50 + 61 + 8, 7, 1, "update")
    assert (list(back.entries), back.words.tolist(), back.clear.tolist()) == (
        [*blob().entries],
        list(range(9)),
        [-1, 2],
    )


def test_every_flipped_bit_of_a_blob_is_told() -> None:
    data = blob().to_bytes(54)
    for place in range(8 * len(data)):
        altered = bytearray(data)
        altered[place // 8] ^= 1 << place % 8
        with pytest.raises(CorruptError):
            Blob.parse(bytes(altered), 54, 2**54 - 33)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(blob(), entries=[]),
        replace(blob(), entries=[*blob().entries] * 2),
        replace(blob(), entries=[Entry(3, bytes(16), bytes(32)), Entry(4, bytes(16), bytes(32))]),
        replace(blob(), words=np.array([2**54 - 33], dtype=np.uint64)),
    ],
    ids=["no entry", "a member twice", "two in an upload", "a word that is no residue"],
)
def test_blobs_that_are_whole_and_wrong_are_told(wrong: Blob) -> None:
    with pytest.raises(CorruptError):
        Blob.parse(wrong.to_bytes(54), 54, 2**54 - 33)


@pytest.mark.parametrize(("degree", "seed"), [(4096, b""), (8192, b""), (4096, bytes(range(32)))])
def test_key_of_seal_is_read_without_seal(degree: int, seed: bytes, tmp_path: Path) -> None:
    parameters = CKKSParameters(degree, (60,), 11, 48, 54, 3, 192)
    key, path = make_key(parameters, seed), tmp_path / "federation.key"
    save_key(key, path)
    read, ring = read_key(path), Ring(degree, ring_prime(degree, 60))
    assert (read.fingerprint, read.seed) == (key.fingerprint, seed)
    assert read.fingerprint == read.named
    coefficients = ring.centred(ring.coefficients(read.secret))
    assert set(np.unique(coefficients)) == {-1, 0, 1}


def test_key_that_this_implementation_saved_is_read() -> None:
    secret = np.arange(64, dtype=np.uint64)
    assert polynomial(saved_key(secret)).tolist() == secret.tolist()


def test_key_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "federation.key"
    path.write_text('{"secret": "AAAA", "fingerprint": "00", "key_id": "00", "parameters": {}}')
    with pytest.raises(KeyFileError):
        read_key(path)


def test_digest_is_of_all_but_itself() -> None:
    data = blob().to_bytes(54)
    assert hashlib.sha256(data[:136] + data[168:]).digest() == data[136:168]
