"""Li and Micciancio's passive attack (EUROCRYPT 2021) on our parameters, and what it finds in what `opening` returns.

A decoded CKKS value is not the message but the message plus the noise e. Whoever sees a ciphertext (c0, c1) and its
decoded floats encodes them back, which gives m + e exactly, and solves c0 + c1 s = m + e for the key s: one division
for each coefficient in the transform domain, where SEAL keeps everything. Nothing is guessed and nothing is secret:
c0, c1, the prime and the floats are enough. Rounded integers carry no e, and the same arithmetic gives noise.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tenseal.sealapi as seal

from common.adding import ckks_adder
from common.ckks import Scratch, context
from common.errors import DictPFLError
from common.keys import FederationKey
from common.opening import CKKSOpener
from common.packing import Ints
from common.parameters import CKKSParameters
from common.sealing import CKKSSealer
from common.seeded import Expander

BODY_AT = 26
"""SEAL's header (16 bytes) and zstd's (10): 60-bit residues do not compress, so that members follow as they are."""
MEMBERS, ARRAY = 73, 24
Residues = list[int]


def sum_of(parameters: CKKSParameters, items: list[bytes]) -> bytes:
    adder = ckks_adder(parameters)
    for item in items:
        adder.add(adder.load(memoryview(item), len(item)))
    (total,) = adder.total()
    return total


def polynomials(total: bytes, parameters: CKKSParameters) -> tuple[Residues, Residues]:
    """c0 and c1, in the transform domain."""
    n, written = parameters.ring_degree, Scratch().bytes_of(Expander(parameters).load(memoryview(total)))
    values = np.frombuffer(written, "<u8", count=2 * n, offset=BODY_AT + MEMBERS + ARRAY)
    return values[:n].tolist(), values[n:].tolist()


def encoded(decoded: np.ndarray, parameters: CKKSParameters) -> Residues:
    """round(scale * inverse embedding of what was decoded), in the transform domain: m + e, or m."""
    half = parameters.ring_degree // 2
    plain = seal.Plaintext()
    seal.CKKSEncoder(context(parameters)).encode(
        (decoded[:half] + 1j * decoded[half:]).tolist(), 2.0**parameters.scale_bits, plain
    )
    array = plain.dyn_array()
    return [int(array.at(i)) for i in range(parameters.ring_degree)]


def solve(total: bytes, decoded: np.ndarray, parameters: CKKSParameters) -> Residues:
    """s = (m + e - c0) / c1, residue by residue."""
    (q,) = (int(m.value()) for m in seal.CoeffModulus.Create(parameters.ring_degree, list(parameters.primes)))
    c0, c1 = polynomials(total, parameters)
    known = encoded(decoded, parameters)
    return [(m - a) * pow(b, -1, q) % q for m, a, b in zip(known, c0, c1, strict=True)]


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


def test_decoded_floats_give_the_key_away(parameters: CKKSParameters, key: FederationKey, values: Ints) -> None:
    sealer, opener = CKKSSealer(key), CKKSOpener(key)
    first = sum_of(parameters, [next(iter(sealer.seal(v))) for v in (values, -2 * values, values + 5)])
    decoded = opener._decoded(memoryview(first))
    s = solve(first, decoded, parameters)
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
        known = np.concatenate([opened, np.zeros(parameters.ring_degree - opened.size)])
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
