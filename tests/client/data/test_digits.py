"""Digits of numbers as they are written, and what a histogram holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.data.digits import PARTS, Histogram, digits_of, histogram, numbers_in, read_columns, read_numbers
from dictpfl.common.errors import ConfigError, DataError


def counted(*words: str, every: bool = True) -> dict[str, list[int]]:
    found = histogram(words, every=every)
    return {name: np.flatnonzero(found.part(name)).tolist() for name in ("first", "second", "last", "magnitude")}


@pytest.mark.parametrize(
    ("word", "digits"),
    [
        ("0.10", (1, 0)), ("-3.50", (3, 5, 0)), ("1,234.5", (1, 2, 3, 4, 5)), ("1 234", (1, 2, 3, 4)), ("12%", (1, 2)), ("1.2e3", (1, 2)),
        ("+007", (7,)), (" 42 ", (4, 2)), (".5", (5,)), ("6.", (6,)),
    ],
)  # fmt: skip
def test_numbers_are_read_as_they_are_written(word: str, digits: tuple[int, ...]) -> None:
    found = digits_of(word)
    assert found is not None
    assert found.as_tuple().digits == digits


@pytest.mark.parametrize("word", ["", "n/a", "2024-01-02", "1,23,4", "12 kg", "nan", "inf", "-", ".", "e5", "%"])
def test_other_words_are_none(word: str) -> None:
    assert digits_of(word) is None


def test_digits_are_counted_by_place() -> None:
    assert counted("0.0123") == {"first": [0], "second": [2], "last": [3], "magnitude": [4]}
    assert counted("90", "1.0") == {"first": [0, 8], "second": [0], "last": [0], "magnitude": [6, 7]}, (
        "a narrow column counts two digits"
    )
    assert counted("90", "100000")["last"] == [0]
    found = histogram(["5", "0", "0.0", "x", "", "7"])
    assert [int(found.part(name)[0]) for name in ("numbers", "zeros", "others")] == [2, 2, 1]
    assert found.counts.shape == (47,) == (sum(PARTS.values()),)


def test_benford_s_digits_are_those_of_wide_columns_alone() -> None:
    wide, narrow = [str(10**k) for k in range(5)] * 20, [str(120 + k) for k in range(60)]
    assert histogram(wide).part("first").sum() == 100
    assert histogram(narrow).part("first").sum() == 0
    assert histogram(narrow, every=True).part("first").sum() == 60
    both = histogram(wide) + histogram(narrow)
    assert both.part("numbers")[0] == 160
    assert both.part("first").sum() == 100


def test_numbers_in_a_text_stand_by_themselves() -> None:
    text = "In 1984, 3.5 of 12,000 people (id a17, v2x) paid 0.25."
    assert numbers_in(text) == ["1984", "3.5", "12,000", "0.25"]


def test_identifiers_are_left_out_unless_they_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,visit,age,name\n" + "".join(f"{i},1,{40 + i % 7},n{i}\n" for i in range(30)))
    chosen, left_out = read_columns(path)
    assert list(chosen) == ["age"]
    assert left_out == ["id", "visit", "name"]
    assert list(read_columns(path, ["id"])[0]) == ["id"]
    with pytest.raises(DataError, match="has no column weight"):
        read_columns(path, ["weight"])


def test_a_file_of_other_counts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    for said, error in (({"format": "x"}, ConfigError), ({"columns": [], "counts": {"first": [1]}}, DataError)):
        path.write_text(json.dumps(said))
        with pytest.raises(error, match=r"make|anew"):
            read_numbers(path)
    counts = {name: [0] * size for name, size in PARTS.items()} | {"zeros": [-1]}
    path.write_text(json.dumps({"columns": [], "counts": counts}))
    with pytest.raises(DataError, match=r"up to 2\^30"):
        read_numbers(path)
    assert isinstance(Histogram(np.zeros(47, dtype=np.int64)) + histogram(["1"]), Histogram)
