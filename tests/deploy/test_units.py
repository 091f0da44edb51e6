"""Figures as people read them."""

import re

import pytest

from dictpfl.deploy.units import counted, human_bytes, human_factor, human_seconds, listed, percent


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (human_bytes(0), "0 B"),
        (human_bytes(999), "999 B"),
        (human_bytes(33_204), "33.2 kB"),
        (human_bytes(999_600), "1 MB"),
        (human_bytes(999.7), "1 kB"),
        (human_bytes(5.12e6), "5.12 MB"),
        (human_bytes(3e13), "30 TB"),
        (counted(0, "round"), "0 rounds"),
        (counted(1, "round"), "1 round"),
        (counted(2000, "sample"), "2,000 samples"),
        (human_factor(11.57), "11.6x"),
        (human_factor(402), "402x"),
        (human_seconds(0.0021), "2.1 ms"),
        (human_seconds(0.9997), "1.0 s"),
        (human_seconds(43.14), "43.1 s"),
        (human_seconds(300), "5.0 min"),
        (listed({"r2": 0.5, "mean of targets": [1.0], "auroc": None, "clipped": 12}), "r2 0.5000, clipped 12"),
        (percent(None), "-"),
        (percent(0.9192), "91.9 %"),
    ],
)
def test_units(shown: str, expected: str) -> None:
    assert re.sub(r"\s+", " ", shown) == expected
