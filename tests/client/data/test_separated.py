"""Text tables: rows longer than their line of names are refused, and shift no column."""

from __future__ import annotations

from pathlib import Path

import pytest

from dictpfl.client.data.digits import read_columns
from dictpfl.client.data.readers.separated import read_separated
from dictpfl.client.data.source import load_dataset
from dictpfl.common.errors import DataError
from dictpfl.common.settings import Data

HOW = "name the delimiter"


def table(folder: Path, text: str) -> Path:
    path = folder / "tables, all" / "ä.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_delimiter_behind_every_row_is_none(tmp_path: Path) -> None:
    path = table(tmp_path, "a,b\n1,2,\n3,4,\n")
    assert read_separated(path, ",", HOW).to_dict("list") == {"a": [1, 3], "b": [2, 4]}
    assert read_columns(path, ["a", "b"])[0] == {"a": ["1", "3"], "b": ["2", "4"]}


@pytest.mark.parametrize("text", ["a,b\n1,2,3\n4,5,6\n", "a,b\n1,2,\n3,4,5\n", "a,b\n1,2,3,4\n"])
def test_rows_longer_than_their_names_are_refused(tmp_path: Path, text: str) -> None:
    """Pandas takes the first column of such a file for names of rows: all others would stand one too far."""
    path = table(tmp_path, text)
    for read in (lambda: read_separated(path, ",", HOW), lambda: read_columns(path)):
        with pytest.raises(DataError, match="more fields than the 2 names of its first line"):
            read()


def test_training_data_are_not_shifted(tmp_path: Path) -> None:
    path = table(tmp_path, "age,bp,dose,label\n30,120,0,0,9\n31,121,0,1,9\n")
    with pytest.raises(DataError, match=r"more fields than the 4 names.*data\.options\.delimiter"):
        load_dataset(Data(source="csv", path=str(path)), 1)


@pytest.mark.parametrize(("names", "twice"), [("label,a,label", "label"), ('a,"b, c",label,"b, c"', "b, c")])
def test_a_name_that_stands_twice_is_refused(tmp_path: Path, names: str, twice: str) -> None:
    """The second was called "label.1", and labels were a feature."""
    rows = "0,1,0,2\n1,0,1,3\n" if '"' in names else "0,1,0\n1,0,1\n"
    path = table(tmp_path, f"\ufeff{names}\n{rows}")
    with pytest.raises(DataError, match=f"has the column '{twice}' twice; columns are found by name"):
        load_dataset(Data(source="csv", path=str(path)), 1)
    same = table(tmp_path, "label,a,label.1\n0,1,5\n1,0,6\n")
    assert load_dataset(Data(source="csv", path=str(same)), 1).feature_names == ("a", "label.1")


def test_another_delimiter_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, "a;b\n30;12\n31;13\n")
    with pytest.raises(DataError, match="separated by ';', expected ','; name the delimiter"):
        read_separated(path, ",", HOW)
    assert read_separated(path, ";", HOW).columns.tolist() == ["a", "b"]
    with pytest.raises(DataError, match="save it with commas"):
        read_columns(path)
    commas = table(tmp_path, "a;b\n30;12,5\n31;13,5\n")
    with pytest.raises(DataError, match="separated by ';'"):
        read_columns(commas)
