"""Samples, data sets by name, and the errors that name the remedy."""

from __future__ import annotations

import gzip
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data, Preprocessing, Recipe


def samples(count: int = 4) -> Samples:
    return Samples(np.arange(2.0 * count).reshape(count, 2), np.arange(count) % 2)


def test_samples_are_cast_taken_and_kept(tmp_path: Path) -> None:
    every = samples()
    assert (every.features.dtype, every.labels.dtype, len(every)) == (np.float32, np.int64, 4)
    np.testing.assert_array_equal(every.take(np.array([2, 0])).features, [[4, 5], [0, 1]])
    every.save(tmp_path / "s")
    again = Samples.load(tmp_path / "s")
    np.testing.assert_array_equal(again.features, every.features)
    np.testing.assert_array_equal(again.labels, every.labels)
    assert Samples(np.ones((2, 3), np.int32), np.ones(2, np.float64)).features.dtype == np.int64


@pytest.mark.parametrize(
    ("features", "labels", "match"),
    [
        (np.ones((2, 2)), np.ones(3), "2 samples but 3 labels"),
        (np.full((2, 2), np.nan), np.ones(2), "4 values are not finite"),
        (np.ones((2, 2)), np.array([0, -1]), "from 0 on"),
        (np.array([["a"], ["b"]]), np.ones(2), "expected numbers"),
        (np.ones((2, 2)), np.zeros((2, 2), np.int64), "one class"),
        (np.array([[1e39], [1.0]]), np.ones(2), r"1 values are beyond what float32 holds \(1e\+39"),
        (np.ones((2, 2)), np.array([1.0, -1e300]), "labels: 1 values are beyond what float32"),
        (np.full((2, 2), 2**63, np.uint64), np.ones(2), "4 values are beyond what int64"),
        ([[1.0], [2.0]], np.ones(2), "expected an array of numpy, found list"),
        (np.ones((2, 2)), torch.ones(2), "labels: expected an array of numpy, found Tensor"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_samples(features: Any, labels: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        Samples(features, labels)


def test_unreadable_samples(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"PK\x03\x04 cut")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    np.savez(tmp_path / "pickle.npz", features=np.array([{}], dtype=object), labels=np.ones(1))
    for name in ("s", "other.npz", "pickle.npz", "absent"):
        with pytest.raises(DataError, match="cannot read samples"):
            Samples.load(tmp_path / name)


def test_bad_data_sets() -> None:
    with pytest.raises(DataError, match="no samples"):
        Dataset(samples(0), 2)
    with pytest.raises(DataError, match=r"label 1 with 1 classes"):
        Dataset(samples(), 1)
    with pytest.raises(DataError, match="outputs is 0"):
        Dataset(samples(), 0)
    with pytest.raises(DataError, match="3 groups for 4"):
        Dataset(samples(), 2, np.array(["a"] * 3))


def test_groups_and_splits_may_be_lists() -> None:
    listed: Any = {"groups": ["a", "b"] * 2, "splits": ["train", "test"] * 2}
    found = Dataset(samples(), 2, **listed).take(np.array([0, 3]))
    assert found.groups is not None
    assert found.splits is not None
    assert (found.groups.tolist(), found.splits.tolist()) == (["a", "b"], ["train", "test"])


@pytest.mark.parametrize(
    ("source", "count", "shape", "outputs"),
    [
        ("digits", 1797, (1, 8, 8), 10),
        ("breast_cancer", 569, (30,), 2),
    ],
)
def test_embedded_sets_are_about_standardised(source: str, count: int, shape: tuple[int, ...], outputs: int) -> None:
    found = load_dataset(Data(source=source), seed=1)
    assert (len(found.samples), found.sample_shape, found.outputs) == (count, shape, outputs)
    assert abs(found.samples.features.mean()) < 0.01
    assert abs(found.samples.features.std() - 1) < 0.01


def test_measurements_may_stay_as_they_were_published() -> None:
    found = load_dataset(Data(source="breast_cancer", options={"scaled": False}), seed=1).samples
    assert found.features[0, :4].tolist() == pytest.approx([17.99, 10.38, 122.8, 1001.0])
    with pytest.raises(ConfigError, match="expected true or false"):
        load_dataset(Data(source="breast_cancer", options={"scaled": "no"}), seed=1)


def test_the_limit_is_drawn_by_seed() -> None:
    one, same, other = (load_dataset(Data(limit=50), seed=s).samples.features for s in (1, 1, 2))
    assert len(one) == 50
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert len(load_dataset(Data(limit=9999), seed=1).samples) == 1797


def idx(*shape: int, fill: int = 3) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes([fill]) * int(np.prod(shape))


def test_fashion_mnist(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(4, 28, 28, fill=255)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(4))
    data = Data(source="fashion_mnist", path=str(tmp_path))
    found = load_dataset(data, seed=1)
    assert (found.sample_shape, found.outputs, len(found.samples)) == ((1, 28, 28), 10, 4)
    assert found.samples.features.max() == pytest.approx((1 - 0.286) / 0.353)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(2, 28, 28))
    with pytest.raises(DataError, match="neither t10k-labels"):
        load_dataset(data, seed=1)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(2))
    assert len(load_dataset(data, seed=1).samples) == 6


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"\x00\x00\x08\x01" + idx(4, 28, 28)[4:], "begins 00000803, found 00000801"),
        (idx(4, 28, 28)[:-1], "header promises"),
        (idx(4, 28, 28)[:6], "header promises"),
        (b"", "begins"),
        (idx(3, 28, 28), "3 samples but 4 labels"),
    ],
)
def test_damaged_idx(tmp_path: Path, raw: bytes, match: str) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(raw)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(4))
    with pytest.raises(DataError, match=match):
        load_dataset(Data(source="fashion_mnist", path=str(tmp_path)), seed=1)


def test_damaged_gzip(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(4, 28, 28))[:-9])
    with pytest.raises(DataError, match="download it again"):
        load_dataset(Data(source="fashion_mnist", path=str(tmp_path)), seed=1)


FRAME = pd.DataFrame({"age": [50.0, 62, 38], "dose": [1, 2, 3], "site": ["b", "a", "b"], "label": ["yes", "no", "yes"]})


def table(
    folder: Path, frame: pd.DataFrame = FRAME, *, kind: str = "csv", column: str = "site", **options: Any
) -> Dataset:
    path = folder / f"t.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    return load_dataset(Data(source=kind, path=str(path), column=column, options=options), seed=1)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables(tmp_path: Path, kind: str) -> None:
    found = table(tmp_path, kind=kind, scale={"age": [50, 12]}, classes=["no", "yes"])
    np.testing.assert_array_equal(found.samples.features, np.float32([[0, 1], [1, 2], [-1, 3]]))
    np.testing.assert_array_equal(found.samples.labels, [1, 0, 1])
    assert found.groups is not None
    assert found.groups.tolist() == ["b", "a", "b"]
    assert (found.feature_names, found.class_names, found.outputs) == (("age", "dose"), ("no", "yes"), 2)


def test_labels_of_tables(tmp_path: Path) -> None:
    found = table(tmp_path, classes=["yes", "no", "unsure"])
    assert (found.samples.labels.tolist(), found.outputs) == ([0, 1, 0], 3)
    whole = table(tmp_path, FRAME.assign(label=[0, 4, 1]))
    assert (whole.samples.labels.dtype, whole.outputs) == (np.int64, 5)
    numbers = table(tmp_path, FRAME.assign(label=[0.5, 4, 1]))
    assert (numbers.samples.labels.dtype, numbers.outputs) == (np.float32, 1)
    assert table(tmp_path, FRAME.assign(label=[3, 4, 1]), target="regression").samples.labels.tolist() == [3, 4, 1]
    assert table(tmp_path, shape=[1, 2], classes=["no", "yes"]).sample_shape == (1, 2)


@pytest.mark.parametrize(
    ("frame", "options", "match"),
    [
        (FRAME.drop(columns="label"), {}, "no column 'label'; it has age, dose, site"),
        (FRAME.drop(columns="site"), {}, "no column 'site'"),
        (FRAME.assign(age=[1, None, 2]), {}, r"t\.\w+, row 2: missing or infinite values in age"),
        (FRAME.assign(label=["yes", None, "no"]), {}, r"row 2: column 'label' has missing values"),
        (FRAME.assign(sex=["f", "m", "f"]), {}, "row 1: columns sex are not numbers; 'f' is the first that is none"),
        (FRAME[["site", "label"]], {}, "no feature columns"),
        (FRAME.iloc[:0], {}, "no rows"),
        (FRAME.assign(label=[-1, 0, 1]), {}, "-1 is negative"),
        (FRAME.assign(label=[0.5, 0, 1]), {"target": "classes"}, "has fractions"),
        (
            FRAME.assign(label=[0.5, 1.5, 0.5]),
            {"classes": [0.5, 1.5]},
            "has fractions; classes are whole numbers or text",
        ),
        (FRAME, {"target": "regression"}, "is text"),
        (FRAME, {"classes": ["yes"]}, r"t\.csv, row 2: label 'no' is not in data\.options\.classes"),
        (FRAME, {"shape": [3], "classes": ["no", "yes"]}, "does not hold 2 feature"),
        (FRAME.assign(label=[1.0, np.inf, 0]), {}, "label 'label' has infinite values"),
        (FRAME.assign(label=[1, 10**15, 0]), {}, r'goes up to 1000000000000000.*data\.options\.target = "regression"'),
    ],
)
def test_bad_tables(tmp_path: Path, frame: pd.DataFrame, options: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        table(tmp_path, frame, **options)


def test_classes_of_numbers_are_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'classes would be ignored: with data\.options\.target = "regression"'):
        table(tmp_path, FRAME.assign(label=[3, 4, 1]), target="regression", classes=[1, 3, 4])


def test_the_file_and_the_row_at_fault_are_named_where_each_institution_has_a_file(tmp_path: Path) -> None:
    files = {
        "a": "x,y\n0.5,0\n1.5,1\n",
        "b": "x,y\n0.5,0\n1.5,1\n,1\n",
        "c": "x,y\n0.5,0\nn/k,1\n",
        "d": "x,y\n1,0\n2,\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")

    def read(*names: str) -> None:
        load_dataset(
            Data(source="csv", label="y", partition="column", paths=[str(tmp_path / f"{n}.csv") for n in names]), 1
        )

    with pytest.raises(DataError, match=r"b\.csv, row 3: missing or infinite values in x"):
        read("a", "b")
    with pytest.raises(DataError, match=r"c\.csv, row 2: columns x are not numbers; 'n/k' is the first"):
        read("a", "c")
    with pytest.raises(DataError, match=r"d\.csv, row 2: column 'y' has missing values"):
        read("a", "d")


def test_named_classes_with_zeros_in_front_are_those_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n0.5,02\n1.5,01\n2.5,10\n", encoding="utf-8")
    data = Data(source="csv", path=str(tmp_path / "t.csv"), label="y", options={"classes": ["01", "02", "10"]})
    found = load_dataset(data, 1)
    assert found.samples.labels.tolist() == [1, 0, 2]
    assert found.class_names == ("01", "02", "10")
    with pytest.raises(DataError, match=r"row 3: label '10' is not in data\.options\.classes"):
        load_dataset(data.model_copy(update={"options": {"classes": ["01", "02"]}}), 1)


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        (["02", "01", "10"], ["01", "02", "10"]),
        (["False", "True", "False"], ["True", "False"]),
        (["1.50", "0.25", "1.50"], ["0.25", "1.50"]),
        (["NA", "None", "asa"], ["None", "NA", "asa"]),
    ],
)
def test_named_categories_are_found_whatever_pandas_makes_of_their_cells(
    tmp_path: Path, cells: list[str], named: list[str]
) -> None:
    """Read as numbers, truth values or missing ones they were all `other`, and nobody was told."""
    lines = "".join(f"{cell},{number % 2},\n" for number, cell in enumerate(cells))
    (tmp_path / "t.csv").write_text(f"word,y,more\n{lines}NULL,1,5\n", encoding="utf-8")
    said = Preprocessing(categories={"word": named}, columns={"more": Recipe(impute="mean")})
    found = load_dataset(Data(source="csv", path=str(tmp_path / "t.csv"), label="y", preprocessing=said), 1)
    assert found.samples.features[:, 0].tolist() == [*(named.index(cell) for cell in cells), -1]
    assert np.isnan(found.samples.features[:-1, 1]).all(), "a cell without a word is missing, as ever"


@pytest.mark.parametrize("named", [["None", "Mild"], ["False", "True"]])
def test_named_classes_are_found_whatever_pandas_makes_of_their_cells(tmp_path: Path, named: list[str]) -> None:
    (tmp_path / "t.csv").write_text(f"x,y\n0.5,{named[1]}\n,{named[0]}\n2.5,{named[1]}\n", encoding="utf-8")
    data = Data(source="csv", path=str(tmp_path / "t.csv"), label="y", options={"classes": named})
    data = data.model_copy(update={"preprocessing": Preprocessing(impute="mean")})
    assert load_dataset(data, 1).samples.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scale": {"height": [1, 2]}}, r"scale\.height"),
        ({"scale": {"age": [1, 0]}}, r"scale\.age"),
        ({"target": "ranking"}, "expected `classes` or `regression`"),
        ({"sep": ";"}, "unknown sep; 'csv' takes scale, classes, target, shape"),
        ({"scale": {"age": 3}}, r"scale\.age"),
        ({"scale": {"age": ["a", "b"]}}, r"scale\.age"),
        ({"scale": [50, 12]}, r"options\.scale is \[50, 12\]; expected a table"),
        ({"shape": 2, "classes": ["no", "yes"]}, "shape is 2; expected the sizes"),
        ({"shape": [-1, -2], "classes": ["no", "yes"]}, r"shape is \[-1, -2\]"),
        ({"classes": "yes"}, "classes is 'yes'; expected a list"),
        ({"classes": ["yes", "no", "yes"]}, "'yes' twice"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        table(tmp_path, **options)


def test_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path is empty"):
        load_dataset(Data(source="csv"), seed=1)
    for kind in ("csv", "parquet", "jsonl", "datasets"):
        with pytest.raises(DataError, match=f"no file .*absent, seen from .*; expected one of data.source '{kind}'"):
            load_dataset(Data(source=kind, path=str(tmp_path / "absent")), seed=1)
    for mistyped in (
        {"path": "~data-of-nobody/a.csv"},
        {"path": "a.csv", "test_path": "~data-of-nobody/a.csv"},
        {"paths": ["~data-of-nobody/a.csv"]},
    ):
        with pytest.raises(DataError, match="no file"):
            load_dataset(Data(source="csv", **mistyped), seed=1)
    with pytest.raises(ConfigError, match="no file is named like '~data-of-nobody"):
        load_dataset(Data(source="csv", path="~data-of-nobody/*.csv"), seed=1)
    with pytest.raises(DataError, match="folder of the IDX files"):
        load_dataset(Data(source="fashion_mnist", path=str(tmp_path)), seed=1)


def test_a_users_function(monkeypatch: pytest.MonkeyPatch) -> None:
    own = types.ModuleType("a_users_data")
    own.make = lambda count: Dataset(samples(count), 2) if count else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_users_data", own)
    assert len(load_dataset(Data(source="a_users_data:make", options={"count": 6}), seed=1).samples) == 6
    with pytest.raises(DataError, match="returned NoneType"):
        load_dataset(Data(source="a_users_data:make", options={"count": 0}), seed=1)
    with pytest.raises(ConfigError, match="takes"):
        load_dataset(Data(source="a_users_data:make", options={"counts": 0}), seed=1)
    with pytest.raises(ConfigError, match=r"unknown; known: .*digits"):
        load_dataset(Data(source="cifar"), seed=1)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"source": "imagefolder", "path": ".", "column": "ward"}, "data.column = 'ward' names a column.*data.options.sites"),
        ({"source": "videofolder", "path": ".", "label": "kind"}, "data.label = 'kind' names a column"),
        ({"source": "videofolder", "column": "ward", "label": "kind"}, "data.label = 'kind' and data.column = 'ward'"),
        ({"source": "digits", "column": "ward"}, "reads none, so that it would be ignored"),
        ({"source": "parquet", "path": "x", "options": {"split": "test"}}, "unknown split; 'parquet' takes scale, classes"),
        ({"source": "jsonl", "path": "x", "options": {"delimiter": ";"}}, "unknown delimiter"),
        ({"source": "csv", "path": "x", "options": {"classes": ["a"], "text": "t", "target": "next"}}, "would be ignored"),
    ],
)  # fmt: skip
def test_what_a_source_does_not_read_is_refused(settings: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_dataset(Data(**settings), 1)


def test_a_source_that_groups_its_samples_may_have_a_word_for_the_groups() -> None:
    assert load_dataset(Data(source="parity", column="code"), 1).groups is not None
