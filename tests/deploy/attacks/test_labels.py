"""Label counts: rounded to the right sum, and compared as multisets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dictpfl.deploy.attacks.labels import as_labels, prior, right, rounded


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(1, 40))
@example([0.0, 0.0], 3)
@example([0.0, 1e-13], 3)
@example([5e-324, 5e-324, 0.0], 2)
def test_rounded_counts_have_the_right_sum(shares: list[float], samples: int) -> None:
    counts = rounded(np.array(shares), samples)
    assert counts.sum() == samples
    assert (counts >= 0).all()
    total = sum(shares)
    if total > 1e-6:
        assert np.abs(counts - np.array(shares) / total * samples).max() < 1 + 1e-6


def test_labels_right_are_a_multiset() -> None:
    assert right(np.array([2, 1, 0]), np.array([0, 1, 0])) == 1.0
    assert right(np.array([3, 0, 0]), np.array([0, 1, 2])) == pytest.approx(1 / 3)
    assert as_labels(np.array([[1, 0, 3]]), 2, 2).tolist() == [[[0, 2], [2, 2]]]
    assert prior(np.array([0, 0, 0, 1]), 2, 4).tolist() == [3, 1]
