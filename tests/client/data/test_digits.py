"""Digits of numbers as they are written, and what a histogram holds."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from dictpfl.client.data.digits import (
    PARTS,
    Histogram,
    digits_of,
    histogram,
    numbers_in,
    read_columns,
    read_numbers,
    words_of,
)
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


def last_digits(*words: str) -> list[int]:
    """Last digits that are counted, each as often as it is."""
    return np.repeat(np.arange(10), histogram(words).part("last")).tolist()


@pytest.mark.parametrize(
    ("words", "digits", "because"),
    [
        (["142.0", "157.0", "163.0"], [2, 3, 7], "whole numbers that stood in a column of floats"),
        (["142.00", "157.00"], [2, 7], "the same, with a program's two decimals"),
        (["110", "120", "130.0"], [0, 0, 0], "a 0 before the point was written by somebody"),
        (["1.25", "1.5", "1.75", "2.0", "2.55"], [0, 0, 5, 5, 5], "1.50 and 2.00, whose zeros were left out"),
        (["1.25", "1.50", "1.75", "2", "2.55"], [0, 5, 5, 5], "zeros are kept here, so that 2 is 2"),
        (["36.6", "37.0", "38.1"], [0, 1, 6], "one decimal, kept"),
        (["1.23", "4.56", "7.8", "12.3", "45.6", "78.0", "123.0", "456.0"], [0, 0, 3, 3, 3, 6, 6, 6], "three significant digits"),
        (["25.1", "25.2", "36", "47"], [1, 2, 6, 7], "as many with a decimal as without: nothing is added"),
        (["0.1234567890123", "0.1234567890124"], [3, 4], "13 digits are still somebody's"),
        (["0.12345678901234567", "0.2345678901234567", "0.5"], [], "most were computed, and a machine's last digit is no reading"),
        (["1.25", "1.35", "0.30000000000000004"], [5, 5], "of one that was computed the digit is left out"),
        (["1.2e3", "1500", "1.35e3"], [0, 2, 5], "exponents: digits as they are written"),
    ],
)  # fmt: skip
def test_last_digits_are_those_that_somebody_read_off(words: list[str], digits: list[int], because: str) -> None:
    assert last_digits(*words) == digits, because


def test_zeros_that_a_program_left_out_are_second_digits_too() -> None:
    wide = ["2.25", "1300.15", "45.35", "3", "7.75", "8.85", "130000.25", *["1.05"] * 200, *["4000.05"] * 200]
    found = histogram(wide)
    assert found.part("first").sum() == found.part("second").sum() == len(wide)
    assert histogram(["2", "3.25", "5.15"], every=True).part("second").tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0], (
        "words of a text are no column"
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([142.0, 1.5, -0.0, np.nan, 1e-5, 0.1]), ["142.0", "1.5", "-0.0", "", "0.00001", "0.1"]),
        (np.array([14.3, 142, 0.1, 1e-5, 2**24 - 1], dtype=np.float32), ["14.3", "142.0", "0.1", "0.00001", "16777215.0"]),
        (np.array([1e20, np.inf, -np.inf]), ["1e+20", "inf", "-inf"]),
        (np.array([0.1], dtype=np.float16), ["0.1"]),
    ],
)  # fmt: skip
def test_floats_are_written_with_the_fewest_digits(values: np.ndarray, words: list[str]) -> None:
    assert words_of(values) == words


def test_a_float_that_was_computed_says_so() -> None:
    for kind, fewest in ((np.float64, 16), (np.float32, 7)):
        values = np.random.default_rng(1).uniform(10, 99, 500).astype(kind)
        words = words_of(values)
        np.testing.assert_array_equal(np.array([kind(word) for word in words]), values)
        assert histogram(words).part("last").sum() == 0, "no digit of theirs was read off"
        assert histogram(words).part("numbers")[0] == 500
        shortest = [len(np.format_float_positional(value, trim="-")) - 1 for value in values]
        assert np.mean(np.array(shortest) >= fewest) > 0.5, "as drawn"


def test_tables_of_programs_hold_the_digits_that_were_written(tmp_path: Path) -> None:
    import pandas as pd

    whole = [142, 157, 163, 171]
    frame = pd.DataFrame(
        {
            "float": np.array(whole, dtype=float),
            "gap": [142.0, None, 163.0, 171.0],
            "nullable": pd.array([9007199254740993, None, 157, 163], dtype="Int64"),
            "single": np.array([14.3, 15.7, 16.3, 17.1], dtype=np.float32),
            "scaled": pd.Series([Decimal("1.50"), Decimal("1.25"), None, Decimal("2.00")], dtype=object),
            "words": ["12 kg", "1.50", "", None],
            "lists": [[1, 2], [3], [], [4]],
            "flag": [True, False, True, True],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    found, left_out = read_columns(tmp_path / "t.parquet")
    (tmp_path / "T.PARQUET").write_bytes((tmp_path / "t.parquet").read_bytes())
    assert read_columns(tmp_path / "T.PARQUET") == (found, left_out), "an ending in capitals"
    (tmp_path / "T.TSV").write_text("a\tb\n1.5\t2\n2.5\t4\n3.5\t7\n", encoding="utf-8")
    assert read_columns(tmp_path / "T.TSV", ["a"])[0] == {"a": ["1.5", "2.5", "3.5"]}
    assert found["scaled"] == ["1.50", "1.25", "", "2.00"], "decimals are exact"
    assert left_out == ["float", "gap", "nullable", "words", "lists", "flag"], "identifiers, and those without numbers"
    named, _ = read_columns(tmp_path / "t.parquet", ["float", "gap", "nullable", "single"])
    assert named["nullable"] == ["9007199254740993", "", "157", "163"], (
        "a whole number beside a missing one stays whole"
    )
    frame[["float", "gap", "single"]].to_csv(tmp_path / "t.csv", index=False)
    for words in (named, read_columns(tmp_path / "t.csv", ["float", "gap", "single"])[0]):
        assert last_digits(*words["float"]) == [1, 2, 3, 7]
        assert last_digits(*words["gap"]) == [1, 2, 3]
        assert last_digits(*words["single"]) == [1, 3, 3, 7]


def test_a_column_may_hold_nothing_or_zeros_alone() -> None:
    for words, zeros, others in (([], 0, 0), (["", " "], 0, 0), (["0", "0.0", "-0", "0e5"], 4, 0), (["n/a"], 0, 1)):
        found = histogram(words)
        assert [int(found.part(name)[0]) for name in ("numbers", "zeros", "others")] == [0, zeros, others]
        assert found.counts.sum() == zeros + others


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
