"""Columns of a table are found by name, wherever they stand; and each institution may have a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dictpfl.client.data.source import load_dataset
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data
from dictpfl.deploy.simulation.partition import divide

TABLE = pd.DataFrame(
    {"id": [7, 8, 9, 10], "age": [30.0, 40, 50, 60], "height": [1.6, 1.7, 1.8, 1.9], "ill": ["no", "yes", "no", "yes"]}
)


def section(path: Path, **said: Any) -> Data:
    return Data.model_validate({"source": "csv", "path": str(path), "label": "ill", **said})


def written(folder: Path, frame: pd.DataFrame, name: str = "t.csv") -> Path:
    frame.to_csv(folder / name, index=False)
    return folder / name


def test_another_order_of_columns_gives_the_same_samples(tmp_path: Path) -> None:
    said = {"features": ["height", "age"], "exclude": ["id"]}
    one = load_dataset(section(written(tmp_path, TABLE), **said), 1)
    other = load_dataset(section(written(tmp_path, TABLE[["ill", "height", "id", "age"]], "u.csv"), **said), 1)
    assert one.feature_names == other.feature_names == ("height", "age")
    np.testing.assert_array_equal(one.samples.features, other.samples.features)
    np.testing.assert_array_equal(one.samples.features[:, 1], [30, 40, 50, 60])


def test_an_excluded_column_is_no_feature(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE)
    assert load_dataset(section(path), 1).feature_names == ("id", "age", "height")
    assert load_dataset(section(path, exclude=["id"]), 1).feature_names == ("age", "height")


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"features": ["age", "heigth"], "exclude": ["id"]}, r"no column 'heigth' \(the nearest is 'height'\)"),
        ({"features": ["age"]}, "columns id, height are no features of this federation"),
        ({"exclude": ["ident"]}, r"no column 'ident' to exclude \(the nearest is 'id'\)"),
        ({"options": {"text": "age", "tokenizer": "x"}, "exclude": ["id"]}, "choose columns of numbers"),
    ],
)
def test_a_missing_or_another_column_is_told_by_name(tmp_path: Path, said: dict[str, Any], match: str) -> None:
    with pytest.raises((ConfigError, DataError), match=match):
        load_dataset(section(written(tmp_path, TABLE), **said), 1)


def test_columns_of_other_sources_are_refused() -> None:
    with pytest.raises(ConfigError, match="source 'digits' has none"):
        load_dataset(Data(exclude=["id"]), 1)
    with pytest.raises(ConfigError, match="features has age, which is there twice"):
        FederationConfig.of({"data": {"source": "csv", "path": "x", "features": ["age", "age"]}})


def test_the_test_file_is_matched_by_name(tmp_path: Path) -> None:
    path, test = written(tmp_path, TABLE), written(tmp_path, TABLE[["height", "ill", "age", "id"]].iloc[:2], "test.csv")
    dataset = load_dataset(section(path, test_path=str(test), exclude=["id"]), 1)
    np.testing.assert_allclose(dataset.samples.features[4:], [[30, 1.6], [40, 1.7]], rtol=1e-6)


@pytest.mark.parametrize("form", ["pattern", "list", "mapping"])
def test_each_institution_has_a_file_of_its_own(tmp_path: Path, form: str) -> None:
    both = pd.concat([TABLE] * 5, ignore_index=True)
    north = written(tmp_path, both, "north.csv")
    south = written(tmp_path, both[["ill", "id", "height", "age"]].assign(age=lambda t: t.age + 100), "south.csv")
    places: dict[str, Any] = {
        "pattern": {"path": str(tmp_path / "*.csv")},
        "list": {"path": "", "paths": [str(north), str(south)]},
        "mapping": {"path": "", "paths": {"north": str(north), "south": str(south)}},
    }[form]
    said = {"source": "csv", "label": "ill", "exclude": ["id"], **places}
    data = FederationConfig.of({"data": said, "federation": {"participants": 3}}).data
    assert data.partition == "column"
    dataset = load_dataset(data, 1)
    division = divide(dataset, data, 2, 1)
    assert [share.name for share in division.institutions] == ["north", "south"]
    for share, least in zip(division.institutions, (30, 130), strict=True):
        ages = share.train.features[:, 0]
        assert ages.min() >= least
        assert ages.max() <= least + 30
    assert set(division.test_groups.tolist()) == {"north", "south"}  # type: ignore[union-attr]


def test_files_with_other_columns_are_refused(tmp_path: Path) -> None:
    written(tmp_path, TABLE, "a.csv")
    written(tmp_path, TABLE.rename(columns={"age": "years"}), "b.csv")
    with pytest.raises(DataError, match=r"b.csv lacks age and has also years, unlike .*a.csv"):
        load_dataset(section(tmp_path / "*.csv"), 1)
    with pytest.raises(ConfigError, match="no file is named like"):
        load_dataset(section(tmp_path / "*.tsv"), 1)
    (tmp_path / "deep").mkdir()
    twice = [str(written(tmp_path, TABLE, "a.csv")), str(written(tmp_path / "deep", TABLE, "a.csv"))]
    with pytest.raises(ConfigError, match="have one name"):
        load_dataset(section(tmp_path).model_copy(update={"path": "", "paths": twice}), 1)
    with pytest.raises(ConfigError, match=r"data.column is 'id', but each institution has a file"):
        load_dataset(section(tmp_path / "[a].csv", column="id"), 1)
