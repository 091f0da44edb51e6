"""Samples in a file: there when asked for, in memory only until they are closed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.data.samples import Samples
from dictpfl.client.data.stored import Stored
from dictpfl.common.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    samples(5).save(tmp_path / "train.npz")
    return tmp_path / "train.npz"


def samples(count: int) -> Samples:
    return Samples(np.arange(3.0 * count).reshape(count, 3), np.arange(count))


def test_what_was_closed_is_read_again(path: Path) -> None:
    stored = Stored(path)
    first = stored.open()
    assert stored.open() is first
    assert stored.nbytes == first.features.nbytes + first.labels.nbytes > 0
    stored.close()
    assert (stored.nbytes, len(stored)) == (0, 5)
    again = stored.open()
    assert again is not first
    assert again.features.tobytes() == first.features.tobytes()
    assert again.labels.tobytes() == first.labels.tobytes()


def test_another_number_of_samples_is_refused(path: Path) -> None:
    stored = Stored(path)
    stored.close()
    samples(6).save(path)
    with pytest.raises(DataError, match="had 5 samples when this institution began and has 6 now"):
        stored.open()
    path.unlink()
    with pytest.raises(DataError, match="cannot read samples"):
        stored.open()
    with pytest.raises(DataError, match="cannot read samples"):
        Stored(path)


@pytest.mark.parametrize(("at", "bit"), [(8, 1), (10, 1)])
def test_a_directory_of_an_archive_that_is_damaged_is_refused(path: Path, at: int, bit: int) -> None:
    """A flipped bit that says "encrypted", or another way of packing, ended with RuntimeError or NotImplementedError."""
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + at] ^= bit
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot read samples"):
        Stored(path)
