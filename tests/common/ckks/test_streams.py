"""Streams of words from seeds: uniform, repeatable, their counters apart, and gone from a sum in which both signs meet."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.common.ckks.adding import WordSum
from dictpfl.common.ckks.keys import FederationKey
from dictpfl.common.ckks.opening import CKKSOpener
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.ckks.polynomials import data_prime
from dictpfl.common.ckks.sealing import CKKSSealer
from dictpfl.common.ckks.streams import SumOfStreams, WordStream
from dictpfl.common.errors import OpeningError
from dictpfl.common.words import WORD_BITS, Words, add_modulo, word_prime

SEED = bytes(range(32))


def counted(seed: bytes, block: int, words: int) -> list[int]:
    """Words of AES in counter mode from a block on: one block at a time, and no counter mode of a library."""
    cipher, data = Cipher(AES(seed), ECB()).encryptor(), b""  # noqa: S305 -- the counter mode is built by hand here
    for n in range(-(-words // 2)):
        data += cipher.update(((block + n) % 2**128).to_bytes(16, "big"))
    return [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(words)]


@pytest.mark.parametrize("prime", [131, 257, word_prime(40), word_prime(54), 2**60 - 2**14 + 1])
def test_a_stream_is_aes_in_counter_mode_with_refused_words_drawn_again_elsewhere(prime: int) -> None:
    mask, count = 2 ** prime.bit_length() - 1, 300
    main = [word & mask for word in counted(SEED, 0, count)]
    again = iter([word & mask for word in counted(SEED, 2**127, 4 * count)])
    expected = [word if word < prime else next(w for w in again if w < prime) for word in main]
    stream = WordStream(SEED, prime)
    assert [*stream.take(1).tolist(), *stream.take(0).tolist(), *stream.take(count - 1).tolist()] == expected


def test_a_stream_is_uniform_below_a_prime_that_refuses_much() -> None:
    """Half of the words are drawn again here; a reduction instead would favour small residues two to one."""
    prime, draws = 131, 400
    stream = WordStream(SEED, prime)
    words = np.concatenate([stream.take(512) for _ in range(draws)])
    assert words.max() < prime
    counts = np.bincount(words.astype(np.int64), minlength=prime)
    expected = words.size / prime
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < prime - 1 + 5 * np.sqrt(2 * (prime - 1))


@pytest.mark.parametrize("bits", [40, 54, 60])
def test_high_and_low_bits_are_uniform(bits: int, parameters: CKKSParameters) -> None:
    prime = data_prime(parameters) if bits == 60 else word_prime(bits)
    words = WordStream(SEED, prime).take(64_000)
    for part in (words >> np.uint64(bits - 6), words & np.uint64(63)):
        counts = np.bincount(part.astype(np.int64), minlength=64)
        assert float(((counts - 1_000) ** 2 / 1_000).sum()) < 63 + 6 * np.sqrt(2 * 63)


def test_a_stream_repeats_and_seeds_differ(parameters: CKKSParameters) -> None:
    prime = data_prime(parameters)
    first, again, other = (WordStream(seed, prime) for seed in (SEED, SEED, SEED[::-1]))
    taken = [first.take(64) for _ in range(3)]
    assert all((one == two).all() for one, two in zip(taken, [again.take(64) for _ in range(3)], strict=True))
    assert not (taken[0] == taken[1]).any()
    assert not (taken[0] == other.take(64)).any()


def test_the_bias_that_is_avoided_is_as_stated(parameters: CKKSParameters) -> None:
    prime = data_prime(parameters)
    assert prime.bit_length() == 60
    assert (2**60 - prime) / 2**60 < 2**-40
    assert all((2**bits - word_prime(bits)) / 2**bits < 2**-32 for bits in WORD_BITS)


def test_a_seed_of_another_length_is_refused() -> None:
    for length in (0, 4, 31, 33, 64):
        with pytest.raises(ValueError, match="32"):
            WordStream(bytes(length), 131)


# Sums of streams
@pytest.mark.parametrize("count", [0, 1, 2, 16, 17, 40])
@pytest.mark.parametrize("bits", [40, 54, 60])
def test_many_streams_add_up_exactly(count: int, bits: int, parameters: CKKSParameters) -> None:
    """More streams than fit into 64 bits before they are reduced: held to Python's own integers."""
    prime = data_prime(parameters) if bits == 60 else word_prime(bits)
    seeds = [bytes([number]) * 32 for number in range(count)]
    plus, minus = seeds[: count // 2], seeds[count // 2 :]
    streams = [(WordStream(seed, prime), 1 if seed in plus else -1) for seed in seeds]
    total = SumOfStreams(prime, plus=plus, minus=minus)
    for size in (5, 1, 30):
        rows = [[sign * word for word in stream.take(size).tolist()] for stream, sign in streams]
        expected = [sum(column) % prime for column in zip(*rows, strict=True)] if rows else [0] * size
        assert total.take(size).tolist() == expected


def test_the_largest_words_overflow_nowhere(parameters: CKKSParameters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen words of 60 bits fit into 64; drawn ones are half as large, and one reduction too late would not show."""
    prime = data_prime(parameters)
    for count in range(1, 40):
        for word, signs in ((prime - 1, {"plus": [SEED] * count}), (0, {"minus": [SEED] * count})):
            monkeypatch.setattr(WordStream, "take", lambda _, size, word=word: np.full(size, word, np.uint64))
            assert SumOfStreams(prime, **signs).take(2).tolist() == [count * word % prime] * 2


@given(
    st.lists(st.binary(min_size=32, max_size=32), max_size=5), st.lists(st.binary(min_size=32, max_size=32), max_size=5)
)
def test_taking_off_what_was_put_on_gives_the_same_words(plus: list[bytes], minus: list[bytes]) -> None:
    prime = word_prime(54)
    words = WordStream(SEED, prime).take(50)
    there = SumOfStreams(prime, plus=plus, minus=minus).take(50)
    add_modulo(there, words, prime)
    back = SumOfStreams(prime, plus=minus, minus=plus).take(50)
    add_modulo(back, there, prime)
    assert back.tolist() == words.tolist()


def test_masks_of_a_pair_vanish_in_the_sum_and_one_upload_is_refused(
    key: FederationKey, parameters: CKKSParameters
) -> None:
    prime, sealer, size = parameters.word_prime, CKKSSealer(key), 5_000
    mine, yours = sealer.seal(np.arange(size)), sealer.seal(np.arange(size, 2 * size))

    def masked(words: Words, **signs: list[bytes]) -> Words:
        shifted = SumOfStreams(prime, **signs).take(words.size)
        add_modulo(shifted, words, prime)
        return shifted

    def summed(*uploads: Words) -> Words:
        total = WordSum(prime)
        for words in uploads:
            total.add(total.load(words.copy()))
        return total.total()

    covered = [masked(mine.words, plus=[SEED]), masked(yours.words, minus=[SEED])]
    assert summed(*covered).tolist() == summed(mine.words, yours.words).tolist()
    opened = CKKSOpener(key).open(summed(*covered), [mine.seed, yours.seed], size)
    assert opened.tolist() == (np.arange(size) + np.arange(size, 2 * size)).tolist()
    for words, seed in zip(covered, (mine.seed, yours.seed), strict=True):
        with pytest.raises(OpeningError, check=lambda e: e.code in ("guard", "noise")):
            CKKSOpener(key).open(words, [seed], size)
