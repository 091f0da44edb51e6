"""Parities are those of the bits in words; a draw is a seed's; what cannot be drawn is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dictpfl.client.data.source import load_dataset
from dictpfl.client.data.sources.parity import Parity
from dictpfl.common.errors import ConfigError
from dictpfl.common.settings import Data


@given(seed=st.integers(0, 99), size=st.integers(1, 4), skills=st.integers(1, 4), spare=st.integers(0, 5))
def test_labels_are_parities(seed: int, size: int, skills: int, spare: int) -> None:
    made = Parity.drawn(seed, bits=size * skills + spare, size=size, skills=skills)
    assert len({int(place) for place in made.subsets.reshape(-1)}) == size * skills
    for code in made.codes:
        drawn = made.samples(code, 20, np.random.default_rng(seed))
        for row, label in zip(drawn.features, drawn.labels, strict=True):
            assert [int(bit) for bit in row[:skills]] == [int(skill in code) for skill in range(skills)]
            task = row[skills:]
            assert label == sum(int(task[place]) for skill in code for place in made.subsets[skill]) % 2
        assert set(np.unique(drawn.features)) <= {0.0, 1.0}


def test_atoms_and_the_whole_are_the_default() -> None:
    assert Parity.drawn(1, bits=12, size=3, skills=4).codes == ((0,), (1,), (2,), (3,), (0, 1, 2, 3))


def test_as_a_source() -> None:
    section = Data(source="parity", options={"bits": 8, "size": 2, "skills": 2, "each": 30})
    one, again, other = load_dataset(section, 3), load_dataset(section, 3), load_dataset(section, 4)
    assert one.samples.features.shape == (90, 10)
    assert np.array_equal(one.samples.features, again.samples.features)
    assert not np.array_equal(one.samples.features, other.samples.features)
    assert one.groups is not None
    assert dict(zip(*np.unique(one.groups, return_counts=True), strict=True)) == {"0": 30, "1": 30, "0+1": 30}


@pytest.mark.parametrize(
    "options", [{"bits": 5}, {"codes": [[]]}, {"codes": [[0, 0]]}, {"codes": [[4]]}, {"size": 0}, {"colour": 1}]
)
def test_what_cannot_be_drawn(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        load_dataset(Data(source="parity", options=options), 1)
