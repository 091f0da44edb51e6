"""Digits: what goes in comes out, sums of packed are packed sums, at every width and for up to a thousand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dictpfl.common.errors import PackingError
from dictpfl.common.law.packing import Digits, Packer, pack, unpack, unpack_narrow
from tests.support import oracle

PAYLOADS = st.integers(30, 50)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Digits, int, int]:
    """Digits by any of the three ways, their capacity, and the payload."""
    capacity, payload = draw(st.integers(1, 1_000)), draw(PAYLOADS)
    way = draw(st.sampled_from(["fit", "holding", "single"]))
    if way == "single":
        return Digits.single(capacity, payload), capacity, payload
    if way == "holding":
        return Digits.holding(draw(st.integers(1, 2 ** (payload - 1) // 1_000)), capacity, payload), capacity, payload
    return Digits.fit(draw(st.integers(4, 16)), capacity, payload), capacity, payload


@settings(max_examples=300)
@given(st.integers(4, 16), st.integers(1, 1_000), PAYLOADS)
def test_fit_equals_the_oracle(bits: int, capacity: int, payload: int) -> None:
    truth = oracle.fitted(bits, capacity, payload)
    assert truth is not None
    found = Digits.fit(bits, capacity, payload)
    assert (found.radix, found.per_component, found.largest) == (truth.radix, truth.per_component, truth.largest)
    assert found.largest >= 2 ** (bits - 1) - 1
    assert found.radix == 2 * capacity * found.largest + 1
    assert found.radix**found.per_component <= 2**payload - 1
    assert (2 * capacity * (found.largest + 1) + 1) ** found.per_component > 2**payload - 1, "widened at no cost"
    assert (2 * capacity * (2 ** (bits - 1) - 1) + 1) ** (found.per_component + 1) > 2**payload - 1, "one more fits"


@given(st.integers(1, 1_000), PAYLOADS, st.integers(1, 2**16))
def test_holding_and_single_equal_the_oracle(capacity: int, payload: int, largest: int) -> None:
    truth = oracle.holding(largest, capacity, payload)
    single = Digits.single(capacity, payload)
    assert oracle.digits(1, capacity, payload) == oracle.PlainDigits(single.radix, single.per_component, single.largest)
    if truth is None:
        with pytest.raises(PackingError, match=f"values up to {largest} from {capacity} participants"):
            Digits.holding(largest, capacity, payload)
        return
    found = Digits.holding(largest, capacity, payload)
    assert (found.radix, found.per_component, found.largest) == (truth.radix, truth.per_component, truth.largest)


@settings(max_examples=200)
@given(shapes(), st.data())
def test_sums_of_extreme_and_other_values_come_back(made: tuple[Digits, int, int], data: st.DataObject) -> None:
    digits, capacity, payload = made
    count = data.draw(st.integers(0, 20))
    extreme = st.sampled_from([digits.largest, -digits.largest, 0, 1, -1])
    rows = data.draw(st.lists(st.lists(extreme | st.integers(-digits.largest, digits.largest), min_size=count,
                                       max_size=count), min_size=1, max_size=4))  # fmt: skip
    # The first row stands for all the participants that are not drawn one by one.
    weights = [max(1, capacity - len(rows) + 1)] + [1] * (min(len(rows), capacity) - 1)
    rows = rows[: len(weights)]
    packed_rows = [pack(np.array(row, dtype=np.int64), digits) for row in rows]
    for row, found in zip(rows, packed_rows, strict=True):
        assert found.tolist() == oracle.packed(
            row, oracle.PlainDigits(digits.radix, digits.per_component, digits.largest)
        )
    components = sum((w * p for w, p in zip(weights, packed_rows, strict=True)), np.zeros_like(packed_rows[0]))
    truth = [sum(w * row[i] for w, row in zip(weights, rows, strict=True)) for i in range(count)]
    assert not components.size or int(np.abs(components).max()) < 2 ** (payload - 1)
    before = components.copy()
    assert unpack(components, count, digits).tolist() == truth
    narrow = unpack_narrow(components, count, digits)
    assert narrow.tolist() == truth
    assert narrow.itemsize == 4 or digits.radix >= 2**31 or digits.per_component == 1
    cut = data.draw(st.integers(0, count))
    pieces = np.full_like(packed_rows[0], 7)
    packer = Packer(pieces, digits)
    for part in (rows[0][:cut], rows[0][cut:]):
        packer.add(np.array(part, dtype=np.int64))
    assert (pieces == packed_rows[0]).all()
    assert (components == before).all()
    assert (
        oracle.unpacked(components.tolist(), count, oracle.PlainDigits(digits.radix, digits.per_component, 0)) == truth
    )


@pytest.mark.parametrize("capacity", [1, 2, 3, 8, 50, 1_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_everybody_at_the_extreme(capacity: int, sign: int) -> None:
    for bits in range(4, 17):
        digits = Digits.fit(bits, capacity, 41)
        values = np.full(3 * digits.per_component + 1, sign * digits.largest, dtype=np.int64)
        values[::2] *= -1
        assert (unpack(capacity * pack(values, digits), values.size, digits) == capacity * values).all()


def test_a_value_beyond_the_digit_is_refused() -> None:
    digits = Digits.fit(8, 3, 44)
    for value in (digits.largest + 1, -digits.largest - 1, 2**62):
        with pytest.raises(PackingError, match="clip before packing"):
            pack(np.array([0, value]), digits)


def test_the_least_integer_is_refused() -> None:
    with pytest.raises(PackingError):
        pack(np.array([np.iinfo(np.int64).min]), Digits.fit(8, 3, 44))


def test_not_even_one_digit_fits() -> None:
    with pytest.raises(PackingError, match=r"lower grid\.value_bits"):
        Digits.fit(16, 2**30, 44)


@given(shapes(), st.integers(0, 50))
def test_another_number_of_components_is_refused(made: tuple[Digits, int, int], count: int) -> None:
    digits = made[0]
    with pytest.raises(PackingError, match="components"):
        unpack(np.zeros(digits.components(count) + 1, np.int64), count, digits)
