"""Sums that carry seeds: the very ciphertexts that SEAL's own sums are, in half the bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tenseal.sealapi as seal
from ciphertexts import second_of

from common.adding import CKKSAdder, ckks_adder
from common.ckks import Scratch
from common.errors import CorruptError, GuardError, ParameterError
from common.keys import FederationKey, make_key
from common.opening import CKKSOpener
from common.packing import Ints
from common.parameters import CKKSParameters
from common.polynomials import coefficients_at, data_prime, polynomials
from common.sealing import CKKSSealer
from common.seeded import SEED_LENGTH, Expander, SeededAdder, form
from common.settings import Encryption

PARAMETERS = CKKSParameters.choose(Encryption(seeded_sums="always"), 6)
KEY = make_key(PARAMETERS)
SIZE = 5_000


def vector(index: int) -> Ints:
    return np.random.default_rng(index).integers(-(2**40), 2**40, SIZE)


UPLOADS = [b"".join(CKKSSealer(KEY).seal(vector(index))) for index in range(6)]
LENGTH = len(UPLOADS[0]) // 2


def folded(adder: SeededAdder | CKKSAdder, uploads: list[bytes]) -> list[bytes]:
    for upload in uploads:
        adder.add(adder.load(memoryview(upload), LENGTH))
    return adder.total()


@pytest.mark.parametrize("count", range(1, 7))
def test_a_sum_is_seals_own_and_opens_exactly(count: int) -> None:
    sums = folded(SeededAdder(PARAMETERS), UPLOADS[:count])
    assert {len(item) for item in sums} == {LENGTH + (count - 1) * SEED_LENGTH}
    expander = Expander(PARAMETERS)
    for item, whole in zip(sums, folded(CKKSAdder(PARAMETERS), UPLOADS[:count]), strict=True):
        first, rest = expander.split(memoryview(item))
        expected = polynomials(whole, PARAMETERS, 2)
        assert bytes(first) == expected[0].tobytes()
        assert np.array_equal(second_of(rest, PARAMETERS), expected[1])
    opened = CKKSOpener(KEY).open(memoryview(b"".join(sums)), len(sums[0]))
    assert np.array_equal(opened[:SIZE], sum(vector(index) for index in range(count)))
    assert not opened[SIZE:].any()


def test_a_sum_of_one_is_the_upload() -> None:
    assert b"".join(folded(SeededAdder(PARAMETERS), UPLOADS[:1])) == UPLOADS[0]


def test_nobody_sees_in_which_order_uploads_came() -> None:
    assert (
        len({b"".join(folded(SeededAdder(PARAMETERS), list(order))) for order in itertools.permutations(UPLOADS[:3])})
        == 1
    )


def test_a_large_sum_after_a_small_one_and_back() -> None:
    """The opener keeps its drawing board between sums: nothing of one gets into the next."""
    opener = CKKSOpener(KEY)
    for count in (3, 1, 6, 2, 3):
        sums = folded(SeededAdder(PARAMETERS), UPLOADS[:count])
        opened = opener.open(memoryview(b"".join(sums)), len(sums[0]))
        assert np.array_equal(opened[:SIZE], sum(vector(index) for index in range(count)))


@pytest.mark.parametrize("own", [0, 1, 2, 5])
def test_what_was_drawn_ahead_changes_nothing(own: int) -> None:
    """Of an upload that is in the sum, of one that is not, and of one that was expected before."""
    opener = CKKSOpener(KEY)
    opener.expect(memoryview(UPLOADS[3]))
    opener.expect(memoryview(UPLOADS[own]))
    for count in (1, 3, 3):
        sums = folded(SeededAdder(PARAMETERS), UPLOADS[:count])
        opened = opener.open(memoryview(b"".join(sums)), len(sums[0]))
        assert np.array_equal(opened[:SIZE], sum(vector(index) for index in range(count)))


def test_what_was_refused_changes_nothing() -> None:
    adder = SeededAdder(PARAMETERS)
    adder.add(adder.load(memoryview(UPLOADS[0]), LENGTH))
    before = adder.total()
    start = coefficients_at(UPLOADS[1], PARAMETERS)
    beyond = bytearray(UPLOADS[1])
    beyond[start : start + 8] = data_prime(PARAMETERS).to_bytes(8, "little")
    framed = bytearray(UPLOADS[1])
    framed[LENGTH + 20] ^= 1
    for bad, length in ((beyond, LENGTH), (framed, LENGTH), (UPLOADS[1][:LENGTH], LENGTH), (UPLOADS[1][:-1], LENGTH),
                        (UPLOADS[1], LENGTH - 1), (b"", LENGTH), (b"", 0)):  # fmt: skip
        with pytest.raises(CorruptError):
            adder.load(memoryview(bytes(bad)), length)
        assert adder.total() == before


def test_seals_own_sums_are_not_admitted_as_uploads() -> None:
    full = Scratch().bytes_of(Scratch().fill(seal.Ciphertext(), PARAMETERS, UPLOADS[0][:LENGTH]))
    with pytest.raises(CorruptError):
        SeededAdder(PARAMETERS).load(memoryview(full), len(full))


@pytest.mark.parametrize("at", [-1, -SEED_LENGTH, -SEED_LENGTH - 1, -2 * SEED_LENGTH])
def test_a_flipped_bit_of_a_seed_is_noticed(at: int) -> None:
    """One of the first polynomial changes one value, and may pass: digests of blobs are there for that (common.wire)."""
    item = bytearray(folded(SeededAdder(PARAMETERS), UPLOADS[:3])[0])
    item[at] ^= 1
    with pytest.raises(GuardError):
        CKKSOpener(KEY).open(memoryview(bytes(item)), len(item))


@pytest.mark.parametrize("change", [-1, 1, SEED_LENGTH - 1])
def test_a_sum_of_another_length_is_refused(change: int) -> None:
    item = folded(SeededAdder(PARAMETERS), UPLOADS[:3])[0]
    item = item[:change] if change < 0 else item + bytes(change)
    with pytest.raises(CorruptError):
        CKKSOpener(KEY).open(memoryview(item), len(item))
    with pytest.raises(CorruptError):
        CKKSOpener(KEY).open(memoryview(item[: form(PARAMETERS).length - 1]), form(PARAMETERS).length - 1)


def test_who_gets_them() -> None:
    for setting, capacity, expected in (
        ("auto", 4, True),
        ("auto", 5, False),
        ("always", 200, True),
        ("never", 3, False),
    ):
        parameters = CKKSParameters.choose(Encryption(seeded_sums=setting), capacity)
        assert parameters.seeded_sums is expected
        assert isinstance(ckks_adder(parameters), SeededAdder) is expected
        assert CKKSParameters.from_json(parameters.to_json()) == parameters
    public = Encryption(profile="public_key", ring_degree=8192)
    assert not CKKSParameters.choose(public, 3).seeded_sums
    with pytest.raises(ParameterError, match='seeded_sums = "never"'):
        CKKSParameters.choose(public.model_copy(update={"seeded_sums": "always"}), 3)


def test_both_forms_open_to_the_same(key: FederationKey) -> None:
    """`key` is of few, so seeded; the same ciphertexts, summed by SEAL under parameters that say "never"."""
    never = CKKSParameters.choose(Encryption(seeded_sums="never"), key.parameters.capacity)
    uploads = [b"".join(CKKSSealer(key).seal(vector(index))) for index in range(3)]
    seeded = folded(SeededAdder(key.parameters), uploads)
    full = folded(CKKSAdder(never), uploads)
    other = FederationKey(never, key.key_id, key.secret)
    assert np.array_equal(
        CKKSOpener(key).open(memoryview(b"".join(seeded)), len(seeded[0])),
        CKKSOpener(other).open(memoryview(b"".join(full)), len(full[0])),
    )
