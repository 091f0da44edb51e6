"""CKKS parameters: chosen by rules, exact to a measured bound, never laxer than SEAL, and refused where they cannot be."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dictpfl.common.arrays import Ints
from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.ckks.keys import FederationKey, make_key
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import FRESH_VARIANCE, GUARDS, MAX_MODULUS_BITS, CKKSParameters
from dictpfl.common.ckks.polynomials import data_prime
from dictpfl.common.ckks.sealing import CKKSSealer, Sealed
from dictpfl.common.errors import ParameterError
from dictpfl.common.law.packing import Digits
from dictpfl.common.protection import Encryption
from dictpfl.common.words import WORD_BITS

RINGS = [Encryption(), Encryption(ring_degree=8192)]
CAPACITIES = (1, 2, 3, 8, 30, 100, 1_000)
CHOSEN = [(capacity, bits) for capacity in CAPACITIES for bits in range(2, 17)]


@pytest.mark.parametrize(("security", "ring_degree"), [(192, 4096), (192, 8192), (256, 4096), (256, 8192), (128, 4096)])
def test_uploads_have_one_length_or_parameters_are_refused(security: int, ring_degree: int) -> None:
    encryption = Encryption.model_validate({"security": security, "ring_degree": ring_degree})
    try:
        parameters = CKKSParameters.choose(encryption, 3)
    except ParameterError:
        assert (security, ring_degree) == (256, 4096)
        return
    sealer = CKKSSealer(make_key(parameters))
    assert {sealer.seal(np.full(100, n)).words.size for n in range(25)} == {100 + GUARDS}


# Exactness: the bound, and what real ciphertexts keep of it


def tolerated(p: CKKSParameters) -> float:
    return 2.0**p.scale_bits / 4


def deviation(p: CKKSParameters, uploads: int) -> float:
    """Of the noise of a sum, in units of 2^-S, as it was derived: fresh errors, one rounding each, and the last one."""
    step = data_prime(p) / p.word_prime
    return math.sqrt(uploads * (10.5 + step**2 / 12) + 1 / 12)


@pytest.mark.parametrize(("capacity", "bits"), CHOSEN)
def test_chosen_parameters_keep_eight_and_a_half_deviations_within_the_tolerance(capacity: int, bits: int) -> None:
    p = CKKSParameters.choose(Encryption(), capacity, bits)
    assert p.payload_bits + p.scale_bits == 59
    assert 8.5 * deviation(p, capacity) <= tolerated(p)
    assert p.capacity == capacity
    assert p.word_bits in WORD_BITS
    digits = Digits.fit(bits, capacity, p.payload_bits)
    assert digits.largest >= 2 ** (bits - 1) - 1


@pytest.mark.parametrize(("capacity", "bits"), CHOSEN)
def test_parameters_beyond_the_bound_are_refused(capacity: int, bits: int) -> None:
    """Chosen words are the shortest that are exact: one bit less, of words or of scale, is too much noise."""
    p = CKKSParameters.choose(Encryption(), capacity, bits)
    shorter = replace_checked(p, word_bits=p.word_bits - 1)
    assert shorter is None
    # The step halves with every bit; a scale of one bit less tolerates half as much.
    assert 8.5 * deviation(p, capacity) * 2 > tolerated(p) or p.word_bits == WORD_BITS[0]
    if 8.5 * deviation(p, capacity) > tolerated(p) / 2:
        assert replace_checked(p, scale_bits=p.scale_bits - 1) is None
    assert replace_checked(p, scale_bits=p.scale_bits - 2) is None
    assert replace_checked(p, scale_bits=p.scale_bits + 1) is None, "payload and scale do not fit the modulus"
    assert replace_checked(p, payload_bits=p.payload_bits + 1) is None


def replace_checked(p: CKKSParameters, **changes: int) -> CKKSParameters | None:
    try:
        return replace(p, **changes)
    except ParameterError:
        return None


@pytest.mark.parametrize(("capacity", "bits"), CHOSEN)
def test_no_other_number_of_digits_takes_fewer_bits(capacity: int, bits: int) -> None:
    """By search over every payload, scale and word there is."""
    p = CKKSParameters.choose(Encryption(), capacity, bits)
    radix, least = 2 * capacity * (2 ** (bits - 1) - 1) + 1, math.inf
    for payload in range(40, 59):
        scale, digits = 59 - payload, 0
        while radix ** (digits + 1) < 2**payload:
            digits += 1
        for word in WORD_BITS:
            step = 2.0**60 / 2.0**word
            if digits and 8.5 * math.sqrt(capacity * (10.5 + step**2 / 12) + 1) <= 2.0**scale / 4 * (1 - 1e-9):
                least = min(least, word / digits)
    assert p.word_bits / Digits.fit(bits, capacity, p.payload_bits).per_component == least


@pytest.mark.parametrize("capacity", [3, 8, 100])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_value_takes_at_most_a_quarter_more_than_its_information(capacity: int, bits: int) -> None:
    p = CKKSParameters.choose(Encryption(), capacity, bits)
    values = 10**6
    digits = Digits.fit(bits, capacity, p.payload_bits)
    sent = p.words(digits.components(values)) * p.word_bits / values
    assert sent <= 1.25 * math.log2(2 * capacity * (2 ** (bits - 1) - 1) + 1)


@lru_cache
def secret_of(security: int, ring_degree: int) -> FederationKey:
    encryption = Encryption.model_validate({"security": security, "ring_degree": ring_degree})
    return make_key(CKKSParameters.choose(encryption, 3))


def key_for(parameters: CKKSParameters) -> FederationKey:
    """A key of these parameters; of all parameters with one ring it is the same, for making one takes a while."""
    made = secret_of(parameters.security, parameters.ring_degree)
    return FederationKey(parameters, made.key_id, made.secret)


def noise(key: FederationKey, uploads: list[Sealed], values: Ints) -> Ints:
    """Noise of the opened sum of uploads of the same values, in units of 2^-S; guards included."""
    p, total = key.parameters, WordSum(key.parameters.word_prime)
    for upload in uploads:
        total.add(total.load(upload.words.copy()))
    (noisy,) = CKKSOpener(key)._noisy(total.total(), [upload.seed for upload in uploads], values.size)
    return noisy - (np.append(values, [0] * GUARDS) * len(uploads) << p.scale_bits)


SMALL = [(1, 8), (2, 4), (2, 16), (3, 2), (3, 8), (8, 4), (8, 8)]
WORST = [*((0, *one) for one in (*SMALL, (30, 2), (30, 8), (100, 8))), *((1, *one) for one in SMALL)]


@pytest.mark.parametrize(("ring", "capacity", "bits"), WORST)
def test_noise_at_the_full_capacity_has_the_deviation_that_was_reckoned(ring: int, capacity: int, bits: int) -> None:
    """And everything is opened exactly: all institutions at the largest component that one may seal, of both signs."""
    key = key_for(CKKSParameters.choose(RINGS[ring], capacity, bits))
    p, sealer = key.parameters, CKKSSealer(key)
    most = 2 ** (p.payload_bits - 1) // p.capacity
    values = np.random.default_rng(1).integers(-most, most + 1, p.components)
    values[:500], values[500:1000] = most, -most
    left, sums = [], max(1, 24 // capacity)
    for _ in range(sums):
        uploads = [sealer.seal(values) for _ in range(capacity)]
        total = WordSum(p.word_prime)
        for upload in uploads:
            total.add(total.load(upload.words.copy()))
        opened = CKKSOpener(key).open(total.total(), [upload.seed for upload in uploads], values.size)
        assert (opened == capacity * values).all()
        left.append(noise(key, uploads, values))
    found = np.concatenate(left).astype(np.float64)
    # A deviation of n values is off by 1 / sqrt(2 n): six of that are one false alarm in 10^9.
    assert abs(found.std() / deviation(p, capacity) - 1) < 6 / math.sqrt(2 * found.size)
    assert abs(found.mean()) < 6 * deviation(p, capacity) / math.sqrt(found.size)
    assert np.abs(found).max() < tolerated(p)


def test_the_error_of_a_fresh_encryption_is_the_one_that_is_reckoned_with() -> None:
    """SEAL's centred binomial: the difference of 21 coins and 21 coins."""
    assert FRESH_VARIANCE == 42 / 4


def test_the_tolerance_is_far_out_for_every_capacity() -> None:
    for capacity in range(1, 1_001):
        p = CKKSParameters.choose(Encryption(), capacity)
        assert 8.5 * deviation(p, capacity) <= tolerated(p), capacity


def test_nowhere_laxer_than_seal_itself() -> None:
    levels = {128: seal.SEC_LEVEL_TYPE.TC128, 192: seal.SEC_LEVEL_TYPE.TC192, 256: seal.SEC_LEVEL_TYPE.TC256}
    for security, table in MAX_MODULUS_BITS.items():
        for ring_degree, bits in table.items():
            assert bits <= seal.CoeffModulus.MaxBitCount(ring_degree, levels[security])


def test_a_small_ring_is_refused() -> None:
    with pytest.raises(ValidationError):
        Encryption.model_validate({"ring_degree": 2048})
    with pytest.raises(ParameterError, match="2024 table", check=lambda e: e.code == "insecure"):
        CKKSParameters(2048, (60,), 14, 45, 54, 3, 128)
    with pytest.raises(ParameterError, check=lambda e: e.code == "insecure"):
        CKKSParameters(4096, (60,), 14, 45, 54, 3, 256)
    for security, ring_degree in ((80, 4096), (128, 512), (128, 5000)):
        with pytest.raises(ParameterError, match="no entry", check=lambda e: e.code == "insecure"):
            CKKSParameters(ring_degree, (60,), 14, 45, 54, 3, security)


@given(st.integers(1, 10_000), st.sampled_from(RINGS), st.integers(2, 16))
def test_chosen_parameters_obey_their_rules(capacity: int, encryption: Encryption, bits: int) -> None:
    p = CKKSParameters.choose(encryption, capacity, bits)
    assert p.payload_bits + p.scale_bits == 59
    assert p.payload_bits >= 40
    assert CKKSParameters.from_json(p.to_json()) == p
    assert CKKSParameters.from_json(p.to_json()).digest == p.digest


def test_values_that_no_component_holds_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"lower grid\.value_bits or federation\.max_participants"):
        CKKSParameters.choose(Encryption(), 2**35, 16)


def test_an_upload_takes_used_coefficients_and_guards_only(parameters: CKKSParameters) -> None:
    whole = parameters.components
    assert whole == 4096 - GUARDS
    for components, words, ciphertexts in ((1, 5, 1), (whole, 4096, 1), (whole + 1, 4096 + 5, 2), (2 * whole, 8192, 2)):
        assert (parameters.words(components), parameters.ciphertexts(components)) == (words, ciphertexts)


def test_a_thousand_values_of_three_institutions_take_at_most_two_thousand_bytes(parameters: CKKSParameters) -> None:
    digits = Digits.fit(8, 3, parameters.payload_bits)
    assert parameters.words(digits.components(1_000)) * parameters.word_bits / 8 <= 1_800, "a header is less than 200"


def test_hand_made_parameters_are_checked(parameters: CKKSParameters) -> None:
    good = parameters.to_json()
    for change in (
        {"scale_bits": 7},
        {"payload_bits": 51},
        {"payload_bits": 29},
        {"payload_bits": 39},
        {"payload_bits": 50, "scale_bits": 9},
        {"word_bits": WORD_BITS[0] - 1},
        {"word_bits": WORD_BITS[-1] + 1},
        {"word_bits": 0},
        {"capacity": 4 * good["capacity"]},
    ):
        with pytest.raises(ParameterError):
            CKKSParameters.from_json({**good, **change})
    for broken in ({**good, "more": 1}, {k: v for k, v in good.items() if k != "primes"}, {**good, "scale_bits": "13"}):
        with pytest.raises(ParameterError):
            CKKSParameters.from_json(broken)


def test_parameters_of_protocol_3_are_refused_with_what_to_do(parameters: CKKSParameters) -> None:
    former = {**parameters.to_json(), "seeded_sums": True}
    with pytest.raises(
        ParameterError, match=r"^CKKS parameters of protocol 3, .*compatibility\.md#move-from-protocol-3\)$"
    ):
        CKKSParameters.from_json(former)


@pytest.mark.parametrize(
    "change",
    [
        {"profile": "foo", "scale_bits": 15, "payload_bits": 44},
        {"profile": None},
        {"capacity": 0},
        {"capacity": -3},
        {"primes": []},
        {"primes": [60, -10]},
        {"primes": [60, 40]},
        {"primes": [70], "payload_bits": 44},
        {"capacity": 2.5},
        {"word_bits": 54.0},
        {"word_bits": True},
        {"ring_degree": 16384},
        {"capacity": 10**400},
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
        CKKSParameters(4096, (60,), 13, 45, 54, 3, 192), CKKSParameters(4096, (60,), 13, 46, 54, 3, 192),
        CKKSParameters(4096, (60,), 13, 46, 53, 3, 192), CKKSParameters(4096, (60,), 14, 45, 54, 3, 192),
    ]  # fmt: skip
    assert len({parameters.digest, *(other.digest for other in others)}) == 8
