"""Adding: words modulo the wire prime and clear integers, whole or not at all; and no SEAL, which the coordinator lacks."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.common.ckks.adding import ClearSum, WordSum
from dictpfl.common.errors import CorruptError
from dictpfl.common.words import Words, word_prime

PRIME = word_prime(54)
WORD = st.integers(0, PRIME - 1) | st.sampled_from([0, 1, PRIME - 1])


def words(*values: int) -> Words:
    return np.array(values, dtype=np.uint64)


@given(st.lists(st.tuples(WORD, WORD, WORD), min_size=1, max_size=12))
def test_words_add_modulo_the_prime_in_any_order(rows: list[tuple[int, int, int]]) -> None:
    totals = set()
    for order in (rows, rows[::-1], sorted(rows)):
        adder = WordSum(PRIME)
        for row in order:
            adder.add(adder.load(words(*row)))
        totals.add(tuple(adder.total().tolist()))
    assert totals == {tuple(sum(column) % PRIME for column in zip(*rows, strict=True))}


def test_a_sum_of_one_is_the_upload_and_of_none_is_empty() -> None:
    adder = WordSum(PRIME)
    assert adder.total().size == 0
    adder.add(adder.load(words(1, 2, PRIME - 1)))
    assert adder.total().tolist() == [1, 2, PRIME - 1]


def test_what_was_refused_changes_nothing() -> None:
    adder = WordSum(PRIME)
    for bad in (words(PRIME), words(1, 2**64 - 1)):
        with pytest.raises(CorruptError, match="beyond the agreed prime"):
            adder.load(bad)
    adder.add(adder.load(words(5, PRIME - 1)))
    refused = [(words(0, PRIME), "beyond the agreed prime"), (words(0, 2**54 - 1), "beyond"), (words(1), "1 words among uploads of 2"),
               (words(1, 2, 3), "3 words among uploads of 2"), (words(), "0 words among")]  # fmt: skip
    for bad, why in refused:
        with pytest.raises(CorruptError, match=why):
            adder.load(bad)
        assert adder.total().tolist() == [5, PRIME - 1]
    # Loaded, and not added since another section was refused: as if it had never come.
    adder.load(words(1, 1))
    assert adder.total().tolist() == [5, PRIME - 1]
    adder.add(adder.load(words(7, 2)))
    assert adder.total().tolist() == [12, 1]


def clear(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


def test_clear_integers_that_leave_their_range_are_refused() -> None:
    adder, big = ClearSum(), clear(2**31 - 1, -(2**31) + 1)
    adder.add(adder.load(memoryview(big)))
    for bad in (clear(1, 0), clear(0, -2), big[:4], b"abc", b""):
        with pytest.raises(CorruptError):
            adder.load(bad)
        assert adder.total() == big
    assert ClearSum().total() == b""
    with pytest.raises(CorruptError, match="agreed integer range"):
        ClearSum().load(clear(-(2**31)))


def test_clear_integers_add_up_in_any_order() -> None:
    uploads = [clear(1, -2, 2**30), clear(-1, 5, 2**30 - 1), clear(7, 0, -(2**30))]
    totals = set()
    for order in itertools.permutations(uploads):
        adder = ClearSum()
        for upload in order:
            adder.add(adder.load(upload))
        totals.add(adder.total())
    assert totals == {clear(7, 3, 2**30 - 1)}


def test_adding_loads_no_seal() -> None:
    loaded = "import dictpfl.common.ckks.adding, sys; print({'tenseal', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
