"""Ledgers add up exactly, and amounts beyond all bounds are clipped, or make the round void."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.common.errors import ConfigError, PackingError, VoidError
from dictpfl.common.law.ledger import LARGEST_CODE, Ledger, LedgerForm
from dictpfl.common.law.measure import Measure

COUNT = st.integers(0, 2**20)
AMOUNT = st.floats(-(2.0**20), 2.0**20)
FIELDS = 6


@given(st.lists(st.tuples(COUNT, AMOUNT, COUNT, AMOUNT, AMOUNT), min_size=1, max_size=5), st.integers(0, 40))
def test_sums_of_ledgers(rows: list[tuple[int, float, int, float, float]], more: int) -> None:
    form = LedgerForm(tensors=3 + more, capacity=5, payload_bits=44)
    codes = np.array([3, 0, LARGEST_CODE, *range(more)])
    ledgers = [Ledger(1, n, train, m, loss, metric, codes) for n, train, m, loss, metric in rows]
    behind = np.array([7, -7])
    total = sum((form.write(one) for one in ledgers), np.zeros(form.size, np.int64))
    found = form.read(np.concatenate([total, behind]))
    assert (found.participants, found.samples, found.measured) == (
        len(rows),
        sum(r[0] for r in rows),
        sum(r[2] for r in rows),
    )
    for value, column in ((found.train_loss, 1), (found.loss, 3), (found.metric, 4)):
        assert value == float(Fraction(sum(round(row[column] * 1024) for row in rows), 1024))
    assert found.codes.tolist() == (codes * len(rows)).tolist()
    assert form.size == FIELDS + -(-(3 + more) // form.codes.per_component)


@pytest.mark.parametrize(("capacity", "payload"), [(1, 40), (3, 48), (8, 44), (100, 42), (1_000, 40)])
def test_codes_are_packed_as_digits_with_room_for_every_institutions_largest(capacity: int, payload: int) -> None:
    """Of 1,000 institutions one digit a component, of three three: as many as hold sums of codes up to 4,095."""
    form = LedgerForm(100, capacity, payload)
    assert form.codes.per_component == int(payload / np.log2(2 * capacity * LARGEST_CODE + 1))
    assert form.codes.largest >= LARGEST_CODE
    assert form.size == FIELDS + -(-100 // form.codes.per_component)
    most = Ledger(1, 1, 0.0, 1, 0.0, 0.0, np.full(100, form.codes.largest))
    assert form.read(capacity * form.write(most)).codes.tolist() == [capacity * form.codes.largest] * 100
    with pytest.raises(PackingError):
        form.write(Ledger(1, 1, 0.0, 1, 0.0, 0.0, np.full(100, form.codes.largest + 1)))


@pytest.mark.parametrize("amount", [1e300, np.inf, -np.inf, np.nan, -1e300, 1e308])
def test_amounts_out_of_all_bounds_are_clipped(amount: float) -> None:
    form = LedgerForm(0, 8, 40)
    found = form.write(Ledger(1, 10**18, amount, 1, amount, amount, np.zeros(0, np.int64)))
    assert np.abs(found).max() == (2**39 - 1) // 8


def test_figures_that_are_cut_are_named() -> None:
    """Squared errors of prices in dollars, say: the sum of 400 samples' is then a thousandth of what it should be."""
    form = LedgerForm(0, 3, 44)
    nothing = np.zeros(0, np.int64)
    large = Ledger(1, 400, 0.0, 400, 400 * 1e10, -400 * 5e4, nothing)
    assert form.read(form.write(large)).loss < 1e-3 * large.loss
    assert form.cut(large) == ("loss",)
    held = float(form.bound // 1024)
    assert form.cut(Ledger(1, 1, held, 1, -held, 0.0, nothing)) == ()
    assert form.cut(Ledger(1, 1, 2 * held, 1, np.nan, -np.inf, nothing)) == ("train_loss", "loss", "metric")


@pytest.mark.parametrize("amount", [1e300, np.inf, -np.inf, -1e300])
def test_amounts_are_clipped_on_their_own_side(amount: float) -> None:
    """A metric of minus infinity is not the best one that there is."""
    form = LedgerForm(0, 8, 40)
    found = form.write(Ledger(1, 1, amount, 1, amount, amount, np.zeros(0, np.int64)))
    assert (np.sign(found[3:]) == np.sign(amount)).all()


@pytest.mark.parametrize(("field", "value"), [(0, 0), (0, -1), (1, -1), (2, -5)])
def test_counts_that_cannot_be(field: int, value: int) -> None:
    components = np.array([1, 1, 1, 0, 0, 0])
    components[field] = value
    with pytest.raises(VoidError, match="does not follow"):
        LedgerForm(0, 3, 44).read(components)


def test_a_sum_shorter_than_the_ledger_is_void() -> None:
    form = LedgerForm(7, 3, 44)
    with pytest.raises(VoidError, match=f"the ledger alone has {form.size}"):
        form.read(np.ones(form.size - 1, np.int64))


def test_a_void_ledger_knows_the_number_of_uploads_alone() -> None:
    assert Ledger.void(4).participants == 4
    assert (Ledger.void(4).samples, Ledger.void(4).measured, Ledger.void(4).codes.size) == (0, 0, 0)


@pytest.mark.parametrize("capacity", [1, 3, 100])
def test_measures_add_up_side_by_side(capacity: int) -> None:
    """Several of other sizes and widths, at their largest; more than their bits are cut, and what is not told is zeros."""
    measures = (Measure("few", 3, 4), Measure("wide", 2, 30), Measure("many", 41, 12))
    form = LedgerForm(5, capacity, 40, measures)
    codes = np.arange(5)
    most = tuple(np.full(one.size, one.largest) * np.where(np.arange(one.size) % 2, -1, 1) for one in measures)
    total = form.read(capacity * form.write(Ledger(1, 7, 0.0, 5, 0.0, 0.0, codes, most)))
    assert total.codes.tolist() == (capacity * codes).tolist()
    assert [part.tolist() for part in total.measures] == [(capacity * part).tolist() for part in most]
    beyond = form.write(Ledger(1, 7, 0.0, 5, 0.0, 0.0, codes, tuple(9 * part for part in most)))
    assert [part.tolist() for part in form.read(beyond).measures] == [part.tolist() for part in most]
    silent = form.read(form.write(Ledger(1, 7, 0.0, 0, 0.0, 0.0, codes)))
    assert [part.any() for part in silent.measures] == [False] * 3
    assert form.size == LedgerForm(5, capacity, 40).size + sum(
        one.digits(capacity, 40).components(one.size) for one in measures
    )


def test_measures_that_no_component_holds() -> None:
    with pytest.raises(ConfigError, match=r"training.metrics: 'wide' has integers of 39 bits"):
        Measure("wide", 1, 39).digits(2, 40)
    for size, bits in ((0, 4), (1, 0), (1, 60)):
        with pytest.raises(ConfigError, match="expected one or more"):
            Measure("odd", size, bits)
