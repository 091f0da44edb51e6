"""Exactness and refusals of sealing, adding and opening, with real ciphertexts."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.adding import IntegerAdder, ckks_adder
from common.ckks import Scratch
from common.errors import (
    CorruptError,
    GuardError,
    InsecureParametersError,
    NoiseError,
    OpeningError,
    PackingError,
    ParameterError,
)
from common.framing import load_ciphertext
from common.keys import FederationKey, make_key
from common.opening import CKKSOpener, IdentityOpener
from common.packing import Ints
from common.parameters import MAX_MODULUS_BITS, CKKSParameters
from common.sealing import CKKSSealer, IdentitySealer
from common.settings import Encryption

PROFILES = [Encryption(), Encryption(profile="public_key", ring_degree=8192)]


def extremes(parameters: CKKSParameters) -> Ints:
    """Components at the edge of what one participant may seal, of both signs, and some between."""
    bound = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    values = np.random.default_rng(1).integers(-bound, bound + 1, parameters.components)
    values[:1000], values[1000:2000] = bound, -bound
    return values


def total(parameters: CKKSParameters, uploads: Iterable[list[bytes]]) -> tuple[memoryview, int]:
    adder = ckks_adder(parameters)
    for items in uploads:
        adder.add(adder.load(memoryview(b"".join(items)), len(items[0])))
    items = adder.total()
    return memoryview(b"".join(items)), len(items[0])


@pytest.mark.parametrize("capacity", [3, 8, 50, 1_000])
def test_sums_open_exactly(capacity: int) -> None:
    parameters = CKKSParameters.choose(Encryption(), capacity)
    key = make_key(parameters)
    sealer, opener = CKKSSealer(key), CKKSOpener(key)
    values = extremes(parameters)
    uploads = min(capacity, 50)
    opened = opener.open(*total(parameters, (list(sealer.seal(values)) for _ in range(uploads))))
    assert (opened == uploads * values).all()


def thousand(parameters: CKKSParameters, key: FederationKey, shift: int) -> tuple[Ints, Ints]:
    """The opened sum of an agreed thousand uploads, and the true one; `shift` rotates each against the last."""
    sealer, values = CKKSSealer(key), extremes(parameters)
    uploads = (list(sealer.seal(np.roll(values, n * shift))) for n in range(1_000))
    opened = CKKSOpener(key).open(*total(parameters, uploads))
    return opened, sum((np.roll(values, n * shift) for n in range(1_000)), np.zeros_like(values))


def test_a_thousand_uploads_open_exactly() -> None:
    parameters = CKKSParameters.choose(Encryption(), 1_000)
    opened, truth = thousand(parameters, make_key(parameters), 1)
    assert (opened == truth).all()


def test_a_thousand_equal_uploads_open_exactly() -> None:
    parameters = CKKSParameters.choose(Encryption(), 1_000)
    opened, truth = thousand(parameters, make_key(parameters), 0)
    assert (opened == truth).all()


@pytest.mark.parametrize("capacity", [3, 8, 50])
def test_sums_under_the_public_key_open_exactly(capacity: int) -> None:
    parameters = CKKSParameters.choose(PROFILES[1], capacity)
    key = make_key(parameters)
    sealer, opener, values = CKKSSealer(key), CKKSOpener(key), extremes(parameters)
    for _ in range(5):
        opened = opener.open(*total(parameters, (list(sealer.seal(values)) for _ in range(capacity))))
        assert (opened == capacity * values).all()


def noise(key: FederationKey, uploads: int) -> Ints:
    """What is left of an opened sum of zeros, in units of 2^-S."""
    sealer, zeros = CKKSSealer(key), np.zeros(key.parameters.components, np.int64)
    payload, length = total(key.parameters, (list(sealer.seal(zeros)) for _ in range(uploads)))
    return CKKSOpener(key)._decrypted(payload[:length])


def test_noise_of_the_public_key_keeps_its_margin() -> None:
    """No value of 20 sums strays beyond a sixth (a quarter is refused); sums of 3, zeros, 8,192 components each."""
    key = make_key(CKKSParameters.choose(PROFILES[1], 3))
    for _ in range(20):
        assert np.abs(noise(key, 3)).max() < 2**key.parameters.scale_bits / 6


@pytest.mark.parametrize("capacity", [1, 3, 22, 50, 1_000])
def test_noise_of_the_symmetric_profile_is_what_was_reckoned(capacity: int) -> None:
    """Its deviation, measured on a sum of zeros, is within a tenth of 3.2 sqrt(K)."""
    uploads = min(capacity, 50)
    found = noise(make_key(CKKSParameters.choose(Encryption(), capacity)), uploads)
    assert abs(found.std() / (3.2 * uploads**0.5) - 1) < 0.1


def test_noise_of_the_public_key_is_what_was_reckoned() -> None:
    """The rounding of two polynomials, one of which meets a ternary secret: sqrt((1 + 2 N / 3) / 12)."""
    found = noise(make_key(CKKSParameters.choose(PROFILES[1], 3)), 3)
    assert abs(found.std() / ((1 + 8192 * 2 / 3) / 12 * 3) ** 0.5 - 1) < 0.1


def test_the_tolerance_is_far_out_for_every_capacity() -> None:
    for capacity in range(1, 1_001):
        parameters = CKKSParameters.choose(Encryption(), capacity)
        assert 3.2 * capacity**0.5 * 8 <= 2**parameters.scale_bits / 4, capacity


def test_order_of_adding_does_not_matter(parameters: CKKSParameters, key: FederationKey) -> None:
    sealer, opener = CKKSSealer(key), CKKSOpener(key)
    rng = np.random.default_rng(0)
    uploads = [list(sealer.seal(rng.integers(-(2**40), 2**40, 5_000))) for _ in range(3)]
    sums = [total(parameters, order) for order in itertools.permutations(uploads)]
    assert len({bytes(payload) for payload, _ in sums}) == 1
    assert len({opener.open(*one).tobytes() for one in sums}) == 1
    identity = IdentitySealer(parameters)
    plain = [list(identity.seal(rng.integers(-(2**40), 2**40, 5_000))) for _ in range(3)]
    totals = set()
    for order in itertools.permutations(plain):
        adder = IntegerAdder("<i8")
        for items in order:
            adder.add(adder.load(memoryview(b"".join(items)), len(items[0])))
        totals.add(b"".join(adder.total()))
    assert len(totals) == 1


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(0, 9_000), st.integers(0, 2**32))
def test_ckks_opens_to_what_identity_opens_to(uploads: int, size: int, seed: int) -> None:
    parameters, key = SHARED
    rng = np.random.default_rng(seed)
    vectors = [rng.integers(-(2**41), 2**41, size) for _ in range(uploads)]
    encrypted, plain = ckks_adder(parameters), IntegerAdder("<i8")
    for vector in vectors:
        sealed = list(CKKSSealer(key).seal(vector))
        identity = list(IdentitySealer(parameters).seal(vector))
        assert len(sealed) == parameters.ciphertexts(size)
        if sealed:
            encrypted.add(encrypted.load(memoryview(b"".join(sealed)), len(sealed[0])))
            plain.add(plain.load(memoryview(b"".join(identity)), len(identity[0])))
    sums, plain_sums = encrypted.total(), plain.total()
    if not size:
        assert sums == plain_sums == []
        return
    opened = CKKSOpener(key).open(memoryview(b"".join(sums)), len(sums[0]))
    plain_opened = IdentityOpener(parameters).open(memoryview(b"".join(plain_sums)), len(plain_sums[0]))
    assert (opened[:size] == plain_opened[:size]).all()
    assert not plain_opened[size:].any()
    assert (opened[:size] == sum(vectors)).all()
    assert not opened[size:].any()


_PARAMETERS = CKKSParameters.choose(Encryption(), 3)
SHARED = (_PARAMETERS, make_key(_PARAMETERS))


@pytest.mark.parametrize("times", [2, 3, 5, 6])
def test_sums_beyond_the_capacity_are_refused(key: FederationKey, parameters: CKKSParameters, times: int) -> None:
    """Everybody at the extreme and more of them than agreed, up to six times: no wrap, and past the payload."""
    items = list(CKKSSealer(key).seal(extremes(parameters)))
    with pytest.raises(OpeningError):
        CKKSOpener(key).open(*total(parameters, [items] * (times * parameters.capacity)))


def test_far_too_many_uploads_are_refused(key: FederationKey, parameters: CKKSParameters) -> None:
    items = list(CKKSSealer(key).seal(extremes(parameters)))
    for uploads in (64, 200, 1_000):
        with pytest.raises((GuardError, NoiseError, OpeningError)):
            CKKSOpener(key).open(*total(parameters, [items] * uploads))


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_sum_of_more_than_the_capacity_is_refused_long_before_it_wraps(
    key: FederationKey, parameters: CKKSParameters, sign: int
) -> None:
    """A coefficient wraps to what may be true again at 7 times the capacity and more; the payload refuses from the first.

    Guards would see nothing. (How many were added, the ledger and the header tell: common.round.)
    """
    most = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    values = np.full(parameters.components, sign * most)
    sealer, capacity = CKKSSealer(key), parameters.capacity
    for uploads in (capacity + 1, 2 * capacity, 3 * capacity, 4 * capacity, 6 * capacity):
        with pytest.raises(OpeningError):
            CKKSOpener(key).open(*total(parameters, (list(sealer.seal(values)) for _ in range(uploads))))


def test_noise_beyond_a_quarter_is_refused(key: FederationKey, parameters: CKKSParameters) -> None:
    items = list(CKKSSealer(key).seal(np.zeros(10, np.int64)))
    adder = ckks_adder(parameters)
    for _ in range(40):  # the very same noise forty times over grows forty-fold, not by a square root
        adder.add(adder.load(memoryview(items[0]), len(items[0])))
    (summed,) = adder.total()
    with pytest.raises((NoiseError, GuardError)):
        CKKSOpener(key).open(memoryview(summed), len(summed))


def test_a_foreign_key_is_noticed(key: FederationKey, parameters: CKKSParameters) -> None:
    items = list(CKKSSealer(key).seal(np.arange(10)))
    for _ in range(5):
        with pytest.raises(GuardError, match="another key"):
            CKKSOpener(make_key(parameters)).open(*total(parameters, [items]))


def test_other_parameters_are_noticed(parameters: CKKSParameters) -> None:
    other = CKKSParameters.choose(Encryption(ring_degree=8192), 3)
    (item,) = CKKSSealer(make_key(other)).seal(np.arange(10))
    with pytest.raises(CorruptError):
        ckks_adder(parameters).load(memoryview(item), len(item))
    scaled = CKKSParameters.choose(Encryption(), 1_000)
    (item,) = CKKSSealer(make_key(scaled)).seal(np.arange(10))
    with pytest.raises(CorruptError, match="framed"):
        ckks_adder(parameters).load(memoryview(item), len(item))


def test_what_could_wrap_is_refused_before_encryption(key: FederationKey, parameters: CKKSParameters) -> None:
    bound = 2 ** (parameters.payload_bits - 1) // parameters.capacity
    for sealer in (CKKSSealer(key), IdentitySealer(parameters)):
        for value in (bound + 1, -bound - 1):
            with pytest.raises(PackingError, match="nothing was encrypted"):
                next(iter(sealer.seal(np.array([0, value]))))


def test_who_seals_two_times_sends_other_bytes_of_the_same_length(key: FederationKey) -> None:
    sealer = CKKSSealer(key)
    items = [next(iter(sealer.seal(v))) for v in (np.zeros(5, np.int64), np.zeros(5, np.int64), np.arange(4_000))]
    assert len(set(items)) == 3
    assert len({len(item) for item in items}) == 1


@pytest.mark.parametrize(
    ("security", "ring_degree", "profile"),
    [
        (192, 4096, "symmetric"),
        (192, 8192, "symmetric"),
        (192, 8192, "public_key"),
        # BUG: SEAL compresses with zstd; primes under about 59 bits compress, and by a length that depends on the noise,
        # so that write() refuses ("unequal length") and nothing fits the agreed item_length. Refuse such parameters.
        (256, 4096, "symmetric"),
        (256, 8192, "public_key"),
        (128, 4096, "public_key"),
    ],
)
def test_items_have_one_length_or_parameters_are_refused(security: int, ring_degree: int, profile: str) -> None:
    encryption = Encryption.model_validate({"security": security, "ring_degree": ring_degree, "profile": profile})
    try:
        parameters = CKKSParameters.choose(encryption, 3)
    except ParameterError:
        return
    sealer = CKKSSealer(make_key(parameters))
    assert len({len(next(iter(sealer.seal(np.arange(100))))) for _ in range(25)}) == 1


# -- the security table ----------------------------------------------------------------------------------


def test_nowhere_laxer_than_seal_itself() -> None:
    levels = {128: seal.SEC_LEVEL_TYPE.TC128, 192: seal.SEC_LEVEL_TYPE.TC192, 256: seal.SEC_LEVEL_TYPE.TC256}
    for security, table in MAX_MODULUS_BITS.items():
        for ring_degree, bits in table.items():
            assert bits <= seal.CoeffModulus.MaxBitCount(ring_degree, levels[security])


def test_a_small_ring_is_refused() -> None:
    with pytest.raises(ValidationError):
        Encryption.model_validate({"ring_degree": 2048})
    with pytest.raises(InsecureParametersError, match="2024 table"):
        CKKSParameters(2048, (60,), 14, 30, 3, "symmetric", 128)
    with pytest.raises(InsecureParametersError):
        CKKSParameters(4096, (60, 60), 14, 30, 3, "public_key", 192)
    for security, ring_degree in ((80, 4096), (128, 512), (128, 5000)):
        with pytest.raises(InsecureParametersError, match="no entry"):
            CKKSParameters(ring_degree, (60,), 14, 30, 3, "symmetric", security)


@given(st.integers(1, 10_000), st.sampled_from(PROFILES))
def test_chosen_parameters_obey_their_rules(capacity: int, encryption: Encryption) -> None:
    try:
        p = CKKSParameters.choose(encryption, capacity)
    except ParameterError:
        assert capacity > 1_000
        return
    assert p.payload_bits + p.scale_bits == 58
    assert CKKSParameters.from_json(p.to_json()) == p
    assert CKKSParameters.from_json(p.to_json()).digest == p.digest


def test_hand_made_parameters_are_checked(parameters: CKKSParameters) -> None:
    good = parameters.to_json()
    for change in (
        {"scale_bits": 7},
        {"payload_bits": 51},
        {"payload_bits": 29},
        {"payload_bits": 50, "scale_bits": 9},
    ):
        with pytest.raises(ParameterError):
            CKKSParameters.from_json({**good, **change})
    for broken in ({**good, "more": 1}, {k: v for k, v in good.items() if k != "primes"}, {**good, "scale_bits": "13"}):
        with pytest.raises(ParameterError):
            CKKSParameters.from_json(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"profile": "foo", "scale_bits": 15, "payload_bits": 43},
        {"capacity": 0},
        {"capacity": -3},
        {"primes": []},
        {"primes": [60, -10]},
        {"primes": [60, 40]},
        {"primes": [70], "payload_bits": 44},
        {"capacity": 2.5},
    ],
    ids=str,
)
def test_nonsense_parameters_are_refused(parameters: CKKSParameters, change: dict[str, object]) -> None:
    with pytest.raises(ParameterError):
        CKKSParameters.from_json({**parameters.to_json(), "security": 128, **change})


def test_digest_depends_on_every_parameter(parameters: CKKSParameters) -> None:
    wider = CKKSParameters.choose(Encryption(ring_degree=8192), 3)
    others = [
        CKKSParameters.choose(Encryption(), 2), CKKSParameters.choose(Encryption(security=128), 3), wider,
        CKKSParameters(4096, (60,), 8, 49, 3, "symmetric", 192), CKKSParameters(4096, (60,), 9, 49, 3, "symmetric", 192),
    ]  # fmt: skip
    assert len({parameters.digest, *(other.digest for other in others)}) == 6


# -- ciphertexts made to harm ----------------------------------------------------------------------------

FRAME = struct.Struct("<HBBBBHQ")
BODY_AT = 26
"""A 60-bit ciphertext does not compress: after SEAL's header (16) and zstd's (10) its members follow as they are."""
MEMBERS = struct.Struct("<32sBQQQdQ")


def body_of(item: bytes) -> bytes:
    assert item[16:20] == b"\x28\xb5\x2f\xfd"
    return item[BODY_AT:]


def framed(body: bytes, compression: int = 0, size: int | None = None) -> bytes:
    return FRAME.pack(0xA15E, 16, 4, 3, compression, 0, FRAME.size + len(body) if size is None else size) + body


def with_members(item: bytes, **changes: object) -> bytes:
    names = ("parms_id", "ntt", "size", "degree", "primes", "scale", "correction")
    body = body_of(item)
    members = dict(zip(names, MEMBERS.unpack_from(body), strict=True)) | changes
    return framed(MEMBERS.pack(*members.values()) + body[MEMBERS.size :])


@pytest.fixture(scope="module")
def item(key: FederationKey) -> bytes:
    return next(iter(CKKSSealer(key).seal(np.arange(4_000))))


def test_our_own_frame_is_understood(item: bytes, parameters: CKKSParameters) -> None:
    assert len(with_members(item)) == len(item) - 10


MUTATIONS: dict[str, dict[str, object]] = {
    "three-polynomials": {"size": 3}, "one-polynomial": {"size": 1}, "many": {"size": 17}, "overflow": {"size": 2**60},
    "degree": {"degree": 8192}, "huge-degree": {"degree": 2**61}, "no-degree": {"degree": 0},
    "two-primes": {"primes": 2}, "no-primes": {"primes": 0}, "huge-primes": {"primes": 2**62},
    "scale": {"scale": 1.0}, "nan-scale": {"scale": float("nan")}, "negative-scale": {"scale": -8192.0},
    "zero-scale": {"scale": 0.0}, "not-ntt": {"ntt": 0}, "correction": {"correction": 0}, "parms": {"parms_id": bytes(32)},
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_members_of_another_ciphertext_are_refused(item: bytes, parameters: CKKSParameters, name: str) -> None:
    bad = with_members(item, **MUTATIONS[name])
    with pytest.raises(CorruptError):
        ckks_adder(parameters).load(memoryview(bad), len(bad))


def test_a_ciphertext_of_no_polynomials_is_refused(item: bytes, parameters: CKKSParameters) -> None:
    bad = with_members(item, size=0)
    with pytest.raises(CorruptError):
        ckks_adder(parameters).load(memoryview(bad), len(bad))


def test_sizes_that_lie_are_refused(item: bytes, parameters: CKKSParameters) -> None:
    body = body_of(item)
    lies = [framed(body, size=n) for n in (0, 8, 16, len(body), 2**40, 2**63, 2**64 - 1)]
    lies += [
        b"",
        item[:10],
        item[:16],
        item[:-1],
        framed(b""),
        framed(body[:-1]),
        framed(body, compression=2),
        bytes(len(item)),
    ]
    for count in (0, 1, 8192, 2**61, 2**64 - 1):
        lies.append(framed(body[: MEMBERS.size + 16] + struct.pack("<Q", count) + body[MEMBERS.size + 24 :]))
    # A coefficient that is not below the prime.
    lies.append(framed(body[: MEMBERS.size + 24] + b"\xff" * 8 + body[MEMBERS.size + 32 :]))
    for bad in lies:
        with pytest.raises(CorruptError):
            load_ciphertext(Scratch(), parameters, bad)


def survives(code: str, *blobs: bytes) -> int:
    """Exit status of a fresh process that loads the blobs: what SEAL aborts must not abort this one."""
    script = (
        "import sys\nfrom common.parameters import CKKSParameters\nfrom common.settings import Encryption\n"
        "from common.ckks import Scratch\nfrom common.framing import load_ciphertext\nfrom common.errors import CorruptError\n"
        "p = CKKSParameters.choose(Encryption(), 3)\ndata = sys.stdin.buffer.read()\n" + code
    )
    return subprocess.run(
        [sys.executable, "-c", script], input=b"".join(blobs), capture_output=True, check=False
    ).returncode


LOAD = "try:\n    load_ciphertext(Scratch(), p, data)\nexcept CorruptError:\n    sys.exit(7)\n"


def test_a_good_item_loads_in_the_other_process(item: bytes) -> None:
    assert survives(LOAD, item) == 0


def test_no_flip_in_the_framing_kills_the_process(item: bytes) -> None:
    bad = bytearray(item)
    bad[8] ^= 1 << 7
    bad[104] ^= 1 << 1
    assert survives(LOAD, bytes(bad)) == 7


def test_no_flip_in_the_framing_of_a_sum_kills_who_opens(item: bytes, parameters: CKKSParameters) -> None:
    bad = bytearray(total(parameters, [[item]])[0])
    bad[8] ^= 1
    bad[104] ^= 1 << 1
    assert survives(LOAD, bytes(bad)) == 7


def test_one_ciphertext_has_one_encoding(item: bytes, parameters: CKKSParameters) -> None:
    reserved = bytearray(item)
    reserved[6] ^= 1
    for other in (bytes(reserved), framed(body_of(item)), framed(body_of(item)) + bytes(10), with_members(item, ntt=7)):
        with pytest.raises(CorruptError):
            load_ciphertext(Scratch(), parameters, other)


def transparent(item: bytes) -> bytes:
    """c0 as it is and c1 = 0, in full (no seed): a ciphertext that anybody can read."""
    body = body_of(item)
    c0 = body[MEMBERS.size + 24 : MEMBERS.size + 24 + 8 * 4096]
    return framed(body[: MEMBERS.size] + framed(struct.pack("<Q", 8192) + c0 + bytes(8 * 4096)))


def test_transparent_ciphertexts_are_refused(item: bytes, parameters: CKKSParameters) -> None:
    bad = transparent(item)
    adder = ckks_adder(parameters)

    def twice() -> None:
        for _ in range(2):
            adder.add(adder.load(memoryview(bad), len(bad)))

    with pytest.raises(CorruptError):
        twice()


def test_integer_adder_refuses_what_leaves_its_range() -> None:
    adder = IntegerAdder("<i4")
    big = np.array([2**31 - 1, -(2**31) + 1], "<i4").tobytes()
    adder.add(adder.load(memoryview(big), 8))
    for bad in (np.array([1, 0], "<i4").tobytes(), np.array([0, -2], "<i4").tobytes(), big[:4], b"abc"):
        with pytest.raises(CorruptError):
            adder.load(memoryview(bad), len(bad))
    assert b"".join(adder.total()) == big
    assert IntegerAdder("<i4").total() == []


def test_a_refused_load_changes_nothing() -> None:
    adder = IntegerAdder("<i8")
    adder.add(adder.load(memoryview(bytes(16)), 8))
    with pytest.raises(CorruptError):
        adder.load(memoryview(bytes(3)), 3)
    assert adder.total() == [bytes(8)] * 2


def test_an_int64_sum_that_wraps_is_refused() -> None:
    adder = IntegerAdder("<i8")
    for most in (2**63 - 1, -(2**63), 2**62 + 1):
        item = np.array([most], "<i8").tobytes()
        with pytest.raises(CorruptError):
            adder.load(memoryview(item), 8)
    item = np.array([2**62], "<i8").tobytes()
    adder.add(adder.load(memoryview(item), 8))
    with pytest.raises(CorruptError):
        adder.load(memoryview(item), 8)


def test_ckks_adder_refuses_another_number_of_items(item: bytes, parameters: CKKSParameters) -> None:
    adder = ckks_adder(parameters)
    adder.add(adder.load(memoryview(item), len(item)))
    with pytest.raises(CorruptError, match="2 ciphertexts among uploads of 1"):
        adder.load(memoryview(item * 2), len(item))


def test_integers_beyond_the_payload_are_refused_in_clear(parameters: CKKSParameters) -> None:
    bad = np.array([2 ** (parameters.payload_bits - 1) + 1], "<i8").tobytes()
    with pytest.raises(OpeningError, match="beyond"):
        IdentityOpener(parameters).open(memoryview(bad), 8)


def test_scratch_leaves_nothing_behind(item: bytes) -> None:
    scratch = Scratch()
    before = {entry.name for entry in Path("/proc/self/fd").iterdir()}
    scratch.fill(seal.Ciphertext(), SHARED[0], item)
    scratch.wipe()
    assert os.fstat(scratch._fd).st_size == 0
    assert {entry.name for entry in Path("/proc/self/fd").iterdir()} <= before
