"""Li and Micciancio's passive attack (EUROCRYPT 2021) on our parameters, and what it finds in what `opening` returns.

A decrypted CKKS value is not the message but the message plus the noise e. Whoever sees a ciphertext (c0, c1) and m + e
solves c0 + c1 s = m + e for the key s: one division for each coefficient in the transform domain. Nothing is guessed and
nothing is secret: c0, c1, the prime and m + e are enough. Rounded integers carry no e, and the same arithmetic gives noise.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tenseal.sealapi as seal
from ciphertexts import second_of

from common.adding import ckks_adder
from common.ckks import Scratch, context
from common.errors import DictPFLError
from common.keys import FederationKey
from common.opening import CKKSOpener
from common.packing import Ints
from common.parameters import CKKSParameters
from common.polynomials import data_prime, first_polynomial
from common.sealing import CKKSSealer
from common.seeded import Expander
from common.transform import blank

BODY_AT = 26
"""SEAL's header (16 bytes) and zstd's (10): 60-bit residues do not compress, so that members follow as they are."""
Residues = list[int]


def sum_of(parameters: CKKSParameters, items: list[bytes]) -> bytes:
    adder = ckks_adder(parameters)
    for item in items:
        adder.add(adder.load(memoryview(item), len(item)))
    (total,) = adder.total()
    return total


def transformed(coefficients: Residues, parameters: CKKSParameters) -> Residues:
    """Coefficients in the transform domain, by SEAL: as the first polynomial of a ciphertext."""
    carrier, evaluator = seal.Ciphertext(), seal.Evaluator(context(parameters))
    Scratch().fill(carrier, parameters, blank(parameters))
    evaluator.transform_from_ntt_inplace(carrier)
    written = bytearray(Scratch().bytes_of(carrier))
    first_polynomial(written, parameters)[:] = np.array(coefficients, np.uint64)
    Scratch().fill(carrier, parameters, written)
    evaluator.transform_to_ntt_inplace(carrier)
    return [int(word) for word in first_polynomial(Scratch().bytes_of(carrier), parameters)]


def solve(total: bytes, decrypted: Ints, parameters: CKKSParameters) -> Residues:
    """s = (m + e - c0) / c1, residue by residue."""
    q = data_prime(parameters)
    first, rest = Expander(parameters).split(memoryview(total))
    c0 = np.frombuffer(first, "<u8").tolist()
    c1 = second_of(rest, parameters).tolist()
    product = transformed([(int(m) - a) % q for m, a in zip(decrypted, c0, strict=True)], parameters)
    return [m * pow(b, -1, q) % q for m, b in zip(product, c1, strict=True)]


def stolen(s: Residues, total: bytes, key: FederationKey) -> FederationKey:
    """A key made of nothing but what the attacker has: SEAL's framing, the public parameter id, and s."""
    array = struct.pack("<Q", len(s)) + np.array(s, "<u8").tobytes()
    frame = struct.Struct("<HBBBBHQ")
    nested = frame.pack(0xA15E, 16, 4, 3, 0, 0, 16 + len(array)) + array
    parms_id = total[BODY_AT : BODY_AT + 32]
    body = parms_id + struct.pack("<Qd", len(s), 1.0) + nested
    return FederationKey(key.parameters, bytes(16), frame.pack(0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body)


def opens(thief: FederationKey, total: bytes, truth: Ints) -> bool:
    try:
        opened = CKKSOpener(thief).open(memoryview(total), len(total))
    except DictPFLError:
        return False
    return bool((opened[: truth.size] == truth).all())


@pytest.fixture(scope="module")
def values(parameters: CKKSParameters) -> Ints:
    """An upload as they are: a few dozen bits used, the rest of the ciphertext zero."""
    return np.random.default_rng(0).integers(-(2**20), 2**20, 3_000)


def test_what_is_not_rounded_gives_the_key_away(parameters: CKKSParameters, key: FederationKey, values: Ints) -> None:
    sealer, opener = CKKSSealer(key), CKKSOpener(key)
    first = sum_of(parameters, [next(iter(sealer.seal(v))) for v in (values, -2 * values, values + 5)])
    s = solve(first, opener._decrypted(memoryview(first)), parameters)
    assert np.array(s, "<u8").tobytes() in key.secret
    other = sum_of(parameters, [next(iter(sealer.seal(np.arange(4_000))))])
    assert opens(stolen(s, first, key), other, np.arange(4_000))


def test_what_opening_returns_does_not(parameters: CKKSParameters, key: FederationKey, values: Ints) -> None:
    sealer, opener = CKKSSealer(key), CKKSOpener(key)
    other = sum_of(parameters, [next(iter(sealer.seal(np.arange(4_000))))])
    for _ in range(3):
        total = sum_of(parameters, [next(iter(sealer.seal(v))) for v in (values, -values, 7 * values)])
        opened = opener.open(memoryview(total), len(total))
        assert opened.dtype == np.int64
        known = (
            np.concatenate([opened, np.zeros(parameters.ring_degree - opened.size, np.int64)]) << parameters.scale_bits
        )
        s = solve(total, known, parameters)
        raw = np.array(s, "<u8").tobytes()
        assert not any(raw[at : at + 8] in key.secret for at in range(0, 800, 8))
        assert not opens(stolen(s, total, key), other, np.arange(4_000))
        assert not opens(stolen(s, total, key), other, values)


def test_nothing_but_integers_leaves_opening(key: FederationKey, parameters: CKKSParameters) -> None:
    """Its public names are openers, and what an opener offers in public is `open`, `expect` (ciphertexts only) and the fingerprint."""
    opener = CKKSOpener(key)
    assert {name for name in dir(opener) if not name.startswith("_")} == {"open", "expect", "fingerprint"}
    total = sum_of(parameters, [next(iter(CKKSSealer(key).seal(np.arange(9))))])
    assert opener.open(memoryview(total), len(total)).dtype == np.int64
