"""Words: exact against Python's integers at every width, packed bit to bit, and modulo the largest prime that fits."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.errors import CorruptError
from dictpfl.common.words import (
    WORD_BITS,
    add_modulo,
    centred,
    pack_words,
    packed_length,
    residues,
    to_coefficients,
    to_words,
    unpack_words,
    word_prime,
)

PRIMES = (1_152_921_504_606_830_593, 1_152_921_504_606_748_673)
"""SEAL's largest prime of 60 bits for rings of 4,096 and another one; both are 1 modulo 8,192."""
Q = PRIMES[0]
BITS = st.sampled_from(WORD_BITS)


# The wire primes
@pytest.mark.parametrize("bits", WORD_BITS)
def test_each_is_prime_and_the_largest_of_its_bits(bits: int) -> None:
    prime = word_prime(bits)
    assert prime < 2**bits
    assert sympy.isprime(prime)
    assert sympy.prevprime(2**bits) == prime


def test_other_widths_have_none() -> None:
    for bits in (WORD_BITS[0] - 1, WORD_BITS[-1] + 1):
        with pytest.raises(KeyError):
            word_prime(bits)


# Rounding, against Python's integers
def words_of(x: int, q: int, p: int) -> int:
    return (2 * x * p + q) // (2 * q) % p


def coefficients_of(c: int, q: int, p: int) -> int:
    return (2 * c * q + p) // (2 * p)


def edges(prime: int, other: int) -> list[int]:
    """Edges of the range, of halves, and of where a quotient by the other prime steps up."""
    near = [0, prime // 2, prime, prime // 3, 2**53, 2**52, 2**40]
    steps = [(2 * k + 1) * prime // (2 * other) for k in (0, 1, 2, other // 3, other // 2, other - 2, other - 1)]
    return sorted({x for at in (*near, *steps) for x in range(at - 3, at + 4) if 0 <= x < prime})


@pytest.mark.parametrize("q", PRIMES)
@pytest.mark.parametrize("bits", WORD_BITS)
def test_rounding_is_exact_there_and_back(bits: int, q: int) -> None:
    p = word_prime(bits)
    rng = np.random.default_rng(bits)
    coefficients = np.array([*edges(q, p), *rng.integers(0, q, 3_000).tolist()], dtype=np.uint64)
    there = to_words(coefficients, q, p)
    assert there.dtype == np.uint64
    assert there.tolist() == [words_of(x, q, p) for x in coefficients.tolist()]
    assert there.max() < p
    words = np.array([*edges(p, q), p - 1, p - 2, *rng.integers(0, p, 3_000).tolist()], dtype=np.uint64)
    back = to_coefficients(words, q, p)
    assert back.tolist() == [coefficients_of(c, q, p) for c in words.tolist()]
    assert back.max() < q
    assert to_words(back, q, p).tolist() == words.tolist(), "a word is a fixed point"


@settings(max_examples=300)
@given(BITS, st.lists(st.integers(0, Q - 1), min_size=1, max_size=8))
def test_any_coefficient_is_rounded_exactly(bits: int, values: list[int]) -> None:
    p = word_prime(bits)
    coefficients = np.array(values, dtype=np.uint64)
    before = coefficients.copy()
    words = to_words(coefficients, Q, p)
    assert (coefficients == before).all()
    assert words.tolist() == [words_of(x, Q, p) for x in values]
    lost = [
        (back - x + Q // 2) % Q - Q // 2 for back, x in zip(to_coefficients(words, Q, p).tolist(), values, strict=True)
    ]
    assert max(map(abs, lost)) <= Q / (2 * p) + 1, "half a step, and the last rounding"


@pytest.mark.parametrize("bits", [40, 47, 54])
def test_what_rounding_leaves_is_uniform_within_a_step(bits: int) -> None:
    """The bound on noise takes its variance to be (q / p)^2 / 12 and its mean to be zero."""
    p, count = word_prime(bits), 200_000
    x = np.random.default_rng(1).integers(0, Q, count, dtype=np.uint64)
    back = to_coefficients(to_words(x, Q, p), Q, p)
    lost = (back - x).view(np.int64)
    lost = np.where(lost > Q // 2, lost - Q, np.where(lost < -(Q // 2), lost + Q, lost)).astype(np.float64) / (Q / p)
    assert abs(lost.var() * 12 - 1) < 0.02
    assert abs(lost.mean()) < 6 * np.sqrt(1 / 12 / count)


# Sums
@given(BITS, st.lists(st.tuples(st.integers(0, 2**60), st.integers(0, 2**60)), min_size=1, max_size=50), st.booleans())
def test_addition_is_modulo_the_prime(bits: int, pairs: list[tuple[int, int]], ciphertext: bool) -> None:
    prime = Q if ciphertext else word_prime(bits)
    pairs = [(a % prime, b % prime) for a, b in [*pairs, (-1, -1), (-1, 1), (0, 0), (-1, 0)]]
    into = np.array([a for a, _ in pairs], dtype=np.uint64)
    add_modulo(into, np.array([b for _, b in pairs], dtype=np.uint64), prime)
    assert into.tolist() == [(a + b) % prime for a, b in pairs]


@given(BITS, st.lists(st.integers(-(2**57), 2**57), max_size=20))
def test_residues_are_pythons_and_come_back_centred(bits: int, values: list[int]) -> None:
    prime = word_prime(bits)
    edge = [0, 1, -1, prime // 2, -(prime // 2)]
    found = residues(np.array([*values, *edge], dtype=np.int64), prime)
    assert found.tolist() == [value % prime for value in [*values, *edge]]
    assert centred(found, prime).tolist()[len(values) :] == edge
    assert all((back - value) % prime == 0 for back, value in zip(centred(found, prime).tolist(), values, strict=False))


# Packing
def plainly_packed(values: list[int], bits: int) -> bytes:
    """One long integer, in which word i begins at bit i * bits."""
    whole = sum(value << (i * bits) for i, value in enumerate(values))
    return whole.to_bytes(-(-len(values) * bits // 8), "little")


@settings(max_examples=200)
@given(BITS, st.data())
def test_packed_words_lie_bit_to_bit_and_come_back(bits: int, data: st.DataObject) -> None:
    word = st.integers(0, word_prime(bits) - 1) | st.sampled_from([0, 1, 2**bits - 1, 2 ** (bits - 1)])
    values = data.draw(st.lists(word, max_size=40))
    packed = pack_words(np.array(values, dtype=np.uint64), bits)
    assert packed == plainly_packed(values, bits)
    assert len(packed) == packed_length(len(values), bits)
    for form in (packed, memoryview(packed)):
        found = unpack_words(form, len(values), bits)
        assert found.dtype == np.uint64
        assert found.tolist() == values


@pytest.mark.parametrize("bits", WORD_BITS)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 4_099])
def test_every_number_of_words_comes_back(bits: int, count: int) -> None:
    values = np.random.default_rng(count).integers(0, word_prime(bits), count, dtype=np.uint64)
    assert unpack_words(pack_words(values, bits), count, bits).tolist() == values.tolist()
    everything = np.full(count, 2**bits - 1, dtype=np.uint64)
    assert unpack_words(pack_words(everything, bits), count, bits).tolist() == everything.tolist()


@pytest.mark.parametrize("bits", WORD_BITS)
def test_bits_beyond_the_last_word_are_refused(bits: int) -> None:
    """A sum has one encoding, so that its digest stands for it."""
    for count in range(1, 9):
        packed, used = pack_words(np.arange(count, dtype=np.uint64), bits), count * bits
        for bit in range(used, 8 * len(packed)):
            bad = bytearray(packed)
            bad[bit // 8] ^= 1 << bit % 8
            with pytest.raises(CorruptError, match="beyond the last word"):
                unpack_words(bytes(bad), count, bits)


def test_another_number_of_bytes_is_refused() -> None:
    packed = pack_words(np.arange(5, dtype=np.uint64), 47)
    for data, count in ((packed[:-1], 5), (packed + b"\0", 5), (packed, 4), (packed, 6), (b"", 1)):
        with pytest.raises(CorruptError, match="are not"):
            unpack_words(data, count, 47)
    assert unpack_words(b"", 0, 47).size == 0


def test_long_uploads_are_worked_on_piece_by_piece() -> None:
    """Longer than any piece: nothing is read from another piece, or put into one."""
    count, bits = 2 * 32_768 + 803, 47
    values, others = (np.random.default_rng(n).integers(0, word_prime(bits), count, dtype=np.uint64) for n in range(2))
    packed = pack_words(values, bits)
    assert packed == b"".join(pack_words(values[start : start + 800], bits) for start in range(0, count, 800))
    assert (unpack_words(packed, count, bits) == values).all()
    added = values.copy()
    add_modulo(added, others, word_prime(bits))
    assert (added == (values + others) % np.uint64(word_prime(bits))).all()
