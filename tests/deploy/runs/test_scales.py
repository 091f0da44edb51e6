"""Where an axis is cut: a first round that is far slower than all others, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dictpfl.deploy.runs.plots import svg, time_split
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.runs.scales import cut

ROUND = RoundRecord(0, "update", 1, 3, {}, 1, {}, 1, 1, 1, 0.5, 1.0, None, None, None, refreshed=False, seconds={})


@pytest.mark.parametrize(
    ("totals", "where"),
    [
        ([10.0, 1.0, 2.0], 2.6),
        ([4.0, 3.0, 2.0], None),
        ([10.0, 1.0], None),
        ([], None),
        ([0.0, 0.0, 5.0], None),
        ([10.0, 10.0, 1.0], None),
    ],
)
def test_only_one_that_is_far_above_all_others_is_cut(totals: list[float], where: float | None) -> None:
    assert cut(totals) == where


def test_a_slow_first_round_does_not_flatten_the_plot() -> None:
    slow = [replace(ROUND, update=n + 1, seconds={"train": 50.0 if n == 0 else 1.0 + n / 10}) for n in range(5)]
    drawn = svg(time_split(slow))
    assert "50 s, cut" in drawn
    assert ">40<" not in drawn, "the axis still goes up to the outlier"
    assert "cut" not in svg(time_split(slow[1:]))
