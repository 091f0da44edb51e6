"""What the product is compared with: each averages right, and sends the bytes that its page says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import openfhe
from lib.measured import Scheme
from lib.openfhe import OpenFHE
from lib.rivals import CKKSVector, schemes
from lib.secagg import SecAggPlus
from lib.short import ClearIntegers, OneTimePads, _Grid
from lib.words import bits_for, entropy, packed, unpacked

COUNT = 20_000
VECTORS = [np.random.default_rng(i).normal(0, 0.01, COUNT).astype(np.float32) for i in range(3)]
STEP = max(float(np.abs(v).max()) for v in VECTORS) / 127


@given(st.integers(1, 32), st.integers(0, 70), st.integers(0, 99))
def test_words_of_any_width(bits: int, count: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 1 << bits, count + 1)
    data = packed(numbers, bits)
    assert len(data) == -(-numbers.size * bits // 8)
    assert np.array_equal(unpacked(data, numbers.size, bits), numbers)
    whole = sum(int(number) << (bits * i) for i, number in enumerate(numbers))
    assert int.from_bytes(data, "little") == whole


def test_bits_and_entropy() -> None:
    assert [bits_for(n) for n in (1, 255, 256, 762)] == [1, 8, 9, 10]
    assert entropy(np.arange(256)) == 1.0
    assert entropy(np.zeros(9, np.int64)) == 0.0


@pytest.mark.parametrize(
    ("made", "up", "down", "error"),
    [
        (ClearIntegers, 1.0, 1.25, STEP / 2),
        (OneTimePads, 1.25, 1.25, STEP / 2),
        (lambda: CKKSVector("adding", (36, 36), 30, degree=4096, symmetric=True), 22.7, 22.7, 1e-5),
        (lambda: SecAggPlus(short=True), 1.25, 1.25, STEP),
        (SecAggPlus, 8.0, 8.0, 1e-5),
    ],
)
def test_bytes_a_value_and_the_mean(made: Callable[[], Scheme], up: float, down: float, error: float) -> None:
    turn = made().run(VECTORS)
    assert turn.error <= error * 1.001
    assert turn.up / COUNT == pytest.approx(up, rel=0.2)
    assert turn.down / COUNT == pytest.approx(down, rel=0.2)
    assert set(turn.seconds) == {"encrypt", "aggregate", "decrypt"}


def test_pads_hide_what_they_are_added_to() -> None:
    """Zeros under a pad are uniform in every bit, and no two uploads have a pad in common."""
    scheme, grid = OneTimePads(), _Grid(VECTORS)
    one, other = scheme._pad(bytes(16), grid), scheme._pad(bytes(15) + b"\1", grid)
    for pad in (one, other, (one - other) & grid.mask):
        ones = ((pad[:, None] >> np.arange(grid.bits)) & 1).mean(axis=0)
        assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(COUNT)
    assert 0 < ClearIntegers().run(VECTORS).entropy < 1.0


def test_openfhe_takes_part_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openfhe, "is_here", lambda: False)
    pytest.importorskip("nvflare", reason="needs the extra `peers`")
    assert not any(isinstance(scheme, OpenFHE) for scheme in schemes())


def test_openfhe_averages() -> None:
    pytest.importorskip("pyhelayers", reason="needs the extra `peers`")
    turn = OpenFHE(1, 2**13).run(VECTORS)
    assert turn.error < 1e-5
    assert turn.up / COUNT == pytest.approx(64 * 3 * 2**13 / COUNT, rel=0.05)
