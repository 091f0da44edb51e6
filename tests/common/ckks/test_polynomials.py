"""Polynomials in SEAL's objects: which values its domain holds, and that nothing is read from another SEAL's files."""

from __future__ import annotations

import struct
import tomllib
from functools import lru_cache

import numpy as np
import pytest
import tenseal
import tenseal.sealapi as seal

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.context import Scratch, context
from dictpfl.common.ckks.keys import FederationKey, load_secret, make_key
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.polynomials import (
    Coefficients,
    SecondPolynomial,
    _blank,
    _coefficients_at,
    _uncompressed,
    data_prime,
)
from dictpfl.common.ckks.streams import WordStream
from dictpfl.common.errors import CorruptError
from dictpfl.common.protection import Encryption
from dictpfl.common.words import Words, centred
from tests.support import ROOT

RINGS = [Encryption(), Encryption(ring_degree=8192)]
BOTH = pytest.mark.parametrize("ring", range(len(RINGS)))


@lru_cache
def key_of(ring: int) -> FederationKey:
    return make_key(CKKSParameters.choose(RINGS[ring], 3))


def times_secret(key: FederationKey, *second: Words) -> list[Words]:
    """Coefficients of the products of one or two polynomials, in SEAL's domain, with the secret: by SEAL."""
    decryptor, plains = seal.Decryptor(context(key.parameters), load_secret(key)), []
    for words in second:
        plains.append(seal.Plaintext())
        decryptor.decrypt(SecondPolynomial(key.parameters).load(words), plains[-1])
    return list(Coefficients(key.parameters).of(*plains))


def random_words(key: FederationKey, count: int) -> list[Words]:
    stream = WordStream(b"p" * 32, data_prime(key.parameters))
    return [stream.take(key.parameters.ring_degree) for _ in range(count)]


def secret_of(key: FederationKey) -> Ints:
    """The secret's coefficients: (a + 1) s less a s; one everywhere in SEAL's domain is the constant polynomial 1."""
    prime, (a,) = data_prime(key.parameters), random_words(key, 1)
    # One at a time: side by side they are so alike that zstd would compress them.
    (product,), (more,) = times_secret(key, a), times_secret(key, (a + np.uint64(1)) % np.uint64(prime))
    return centred((more + np.uint64(prime) - product) % np.uint64(prime), prime)


@BOTH
def test_a_secret_is_ternary(ring: int) -> None:
    secret = secret_of(key_of(ring))
    assert set(secret.tolist()) == {-1, 0, 1}
    for value in (-1, 0, 1):
        expected = secret.size / 3
        assert abs((secret == value).sum() - expected) < 6.2 * np.sqrt(expected * 2 / 3)


@BOTH
def test_words_are_values_at_the_roots_that_the_specification_names(ring: int) -> None:
    """Word i is the value at psi^(2 bitreversed(i) + 1), psi the least primitive 2N-th root of 1; by Horner's rule."""
    key = key_of(ring)
    prime, degree = data_prime(key.parameters), key.parameters.ring_degree
    (a,), secret = random_words(key, 1), secret_of(key)
    (product,) = times_secret(key, a)
    root = next(
        r for g in range(2, 99) if pow(r := pow(g, (prime - 1) // (2 * degree), prime), degree, prime) == prime - 1
    )
    square, least = root * root % prime, root
    for _ in range(degree):  # all primitive roots are odd powers of one
        root = root * square % prime
        least = min(least, root)
    bits = degree.bit_length() - 1
    for i in (0, 1, 2, 5, degree // 2, degree - 1):
        at = pow(least, 2 * int(f"{i:0{bits}b}"[::-1], 2) + 1, prime)
        values = []
        for coefficients in (secret.tolist(), product.tolist()):
            value = 0
            for coefficient in reversed(coefficients):
                value = (value * at + coefficient) % prime
            values.append(value)
        assert values[1] == int(a[i]) * values[0] % prime


@BOTH
def test_two_at_a_time_are_each_by_itself(ring: int) -> None:
    key = key_of(ring)
    a, b = random_words(key, 2)
    both = times_secret(key, a, b)
    alone = times_secret(key, a) + times_secret(key, b)
    assert len(both) == 2
    assert all(np.array_equal(one, other) for one, other in zip(both, alone, strict=True))


@BOTH
def test_the_transform_is_linear(ring: int) -> None:
    key = key_of(ring)
    prime = np.uint64(data_prime(key.parameters))
    a, b = random_words(key, 2)
    one, other = times_secret(key, a, b)
    (total,) = times_secret(key, (a + b) % prime)
    assert np.array_equal(total, (one + other) % prime)


@pytest.mark.parametrize("damaged", [bytes(300), bytes(40_000), b"\x5e\xa1\x10\x04\x03\x00\x00\x00" * 20])
def test_what_this_seal_did_not_save_holds_no_polynomial(damaged: bytes) -> None:
    with pytest.raises(CorruptError, match="another form than SEAL"):
        _coefficients_at(damaged, key_of(0).parameters)


def saved_by_seal(key: FederationKey) -> bytes:
    """A ciphertext as this TenSEAL's SEAL saves it."""
    made, plain = seal.Ciphertext(), seal.Plaintext()
    seal.CKKSEncoder(context(key.parameters)).encode(0.0, 2.0, plain)
    seal.Encryptor(context(key.parameters), load_secret(key)).encrypt_symmetric(plain, made)
    return Scratch().bytes_of(made)


def test_this_tenseal_saves_in_the_form_that_is_read_by_hand() -> None:
    """What to do when a new TenSEAL fails here: read its SEAL's serialization.h, then `_HEADER`, `_OUTER` and `_uncompressed`."""
    saved = saved_by_seal(key_of(0))
    magic, size, major, minor, compression, reserved, length = struct.unpack_from("<HBBBBHQ", saved)
    assert (major, minor) == (4, 3), (
        f"TenSEAL {tenseal.__version__} brings SEAL {major}.{minor}; common/ckks/polynomials.py reads 4.3"
    )
    assert (magic, size, reserved, length) == (0xA15E, 16, 0, len(saved)), "the header of SEAL's files has another form"
    assert compression == 2, "SEAL saves with another compression than zstd"
    assert saved[size : size + 4] == bytes.fromhex("28b52ffd"), "what follows the header is no zstd frame"


@pytest.mark.parametrize("minor", [1, 4])
def test_another_seal_is_named_with_the_tenseal_to_install(minor: int) -> None:
    """TenSEAL 0.3.16 brings SEAL 4.1; its first sealing said to install the version that pyproject.toml names, which it was."""
    key = key_of(0)
    data = bytes(_uncompressed(saved_by_seal(key))).replace(
        bytes.fromhex("5ea11004 03"), bytes([0x5E, 0xA1, 0x10, 4, minor])
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = (line for line in project["dependencies"] if line.startswith("tenseal"))
    with pytest.raises(
        CorruptError, match=f"TenSEAL {tenseal.__version__} saves them in another form than SEAL"
    ) as refused:
        _coefficients_at(data, key.parameters)
    assert f"pip install '{wanted}'" in str(refused.value)


@BOTH
def test_what_seal_compressed_is_not_taken_for_words(ring: int) -> None:
    """Zeros are compressed, so that they lie nowhere; words that look random lie in the blocks as they are."""
    key = key_of(ring)
    saved = saved_by_seal(key)
    data = bytes(_uncompressed(saved))
    assert len(data) > 16 * key.parameters.ring_degree
    again = Scratch().fill(seal.Ciphertext(), key.parameters, data)
    assert Scratch().bytes_of(again) == saved
    half = Scratch().fill(seal.Ciphertext(), key.parameters, _blank(key.parameters).data)
    for bad in (Scratch().bytes_of(half), saved[:-1], saved[:100]):
        with pytest.raises(CorruptError, match="another form"):
            _uncompressed(bad)
