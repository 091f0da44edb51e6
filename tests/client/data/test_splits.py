"""Test samples of their own: a second file, or a column that says what each row is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dictpfl.client.data.samples import Dataset, Samples, drawn
from dictpfl.client.data.source import load_dataset
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data


def table(path: Path, numbers: range, **columns: Any) -> Path:
    pd.DataFrame({"number": [float(n) for n in numbers], "label": [n % 3 for n in numbers]} | columns).to_csv(
        path, index=False
    )
    return path


def load(path: Path, **settings: Any) -> Dataset:
    return load_dataset(Data(source="csv", path=str(path), **settings), seed=1)


def numbers(dataset: Dataset, split: str) -> list[int]:
    assert dataset.splits is not None
    return [int(n) for n in dataset.samples.features[dataset.splits == split, 0]]


def test_a_second_file_gives_the_test_samples(tmp_path: Path) -> None:
    path, test = table(tmp_path / "a.csv", range(30)), table(tmp_path / "b.csv", range(100, 120))
    found = load(path, test_path=str(test))
    assert (numbers(found, "train"), numbers(found, "test")) == (list(range(30)), list(range(100, 120)))
    few = load(path, test_path=str(test), limit=9, test_limit=4)
    assert (len(numbers(few, "train")), len(numbers(few, "test"))) == (9, 4)
    assert set(numbers(few, "train")) < set(range(30))
    other = load_dataset(Data(source="csv", path=str(path), test_path=str(test), limit=9, test_limit=4), seed=2)
    assert numbers(other, "train") != numbers(few, "train")
    assert numbers(other, "test") != numbers(few, "test")


def test_a_column_says_what_a_row_is_for(tmp_path: Path) -> None:
    words = ["train", "test", "validation"] * 10
    path = table(tmp_path / "a.csv", range(30), part=words, site=["x", "y"] * 15)
    found = load(path, split_column="part", column="site")
    assert numbers(found, "test") == list(range(1, 30, 3))
    assert found.feature_names == ("number",), "neither the part nor the institution is a feature"
    few = load(path, split_column="part", column="site", limit=5, test_limit=2)
    assert [len(numbers(few, "train")) + len(numbers(few, "validation")), len(numbers(few, "test"))] == [5, 2]
    assert few.groups is not None
    assert [int(n) % 2 for n in few.samples.features[:, 0]] == [int(group == "y") for group in few.groups]


@pytest.mark.parametrize(("limit", "test_limit"), [(0, 0), (7, 0), (0, 3), (7, 3), (100, 100)])
def test_a_second_draw_keeps_all_of_the_first(limit: int, test_limit: int) -> None:
    splits = np.array(["train", "test", "validation", "train", "test"] * 8)
    data = Data(limit=limit, test_limit=test_limit)
    first = drawn(len(splits), data, 1, splits)
    kept = splits if first is None else splits[first]
    assert (kept == "test").sum() == min(test_limit or 16, 16)
    assert (kept != "test").sum() == min(limit or 24, 24)
    assert drawn(len(kept), data, 1, kept) is None


def test_classes_have_the_same_numbers_in_both_files(tmp_path: Path) -> None:
    first, test = tmp_path / "a.csv", tmp_path / "b.csv"
    for path, labels in ((first, ["a", "b", "c"]), (test, ["a", "b", "b"])):
        pd.DataFrame({"x": [1.0, 2.0, 3.0], "label": labels}).to_csv(path, index=False)
    found = load(first, test_path=str(test))
    assert (found.class_names, found.samples.labels.tolist()) == (("a", "b", "c"), [0, 1, 2, 0, 1, 1])
    pd.DataFrame({"x": [1.0, 2.0], "label": ["b", "c"]}).to_csv(test, index=False)
    with pytest.raises(DataError, match=r"b, c: their numbers would differ; set data\.options\.classes"):
        load(first, test_path=str(test))
    named = load(first, test_path=str(test), options={"classes": ["a", "b", "c"]})
    assert named.samples.labels.tolist() == [0, 1, 2, 1, 2]


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", range(9), part=["train", "test", "exam"] * 3)
    with pytest.raises(DataError, match="marked 'exam'; expected train, validation, test"):
        load(path, split_column="part")
    with pytest.raises(DataError, match="no column 'split'"):
        load(path, split_column="split")
    with pytest.raises(ConfigError, match="tested on what it learned"):
        load(path, test_path=str(tmp_path / "." / "a.csv"))
    wider = table(tmp_path / "b.csv", range(9), more=[1.0] * 9)
    narrow = table(tmp_path / "c.csv", range(9))
    with pytest.raises(DataError, match=r"c.csv: no column 'more'"):
        load(wider, test_path=str(narrow))
    with pytest.raises(ConfigError, match="reads no file"):
        load_dataset(Data(source="digits", test_path="x.csv"), seed=1)
    with pytest.raises(ConfigError, match="has no columns"):
        load_dataset(Data(source="digits", split_column="part"), seed=1)
    for wrong, match in (
        ({"test_path": "b", "split_column": "part"}, "set one of them"),
        ({"split_column": "label"}, "column of the labels"),
        ({"split_column": "site", "column": "site"}, "of the institutions"),
    ):
        with pytest.raises(ConfigError, match=match):
            FederationConfig.of({"data": {"source": "csv", "path": "a", **wrong}})


def test_a_data_set_counts_its_splits() -> None:
    samples = Samples(np.zeros((3, 1), np.float32), np.zeros(3, np.int64))
    with pytest.raises(DataError, match="2 splits for 3 samples"):
        Dataset(samples, 1, splits=np.array(["train", "test"]))
