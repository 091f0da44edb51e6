"""Two columns of a table as labels: a time, and whether the event was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dictpfl.client.data.source import load_dataset
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data

TABLE = "age,stage,died,days,centre\n61,2,1,100,a\n70,1,0,250.5,b\n55,3,0,30,a\n"


def read(folder: Path, table: str = TABLE, **options: Any) -> Any:
    """The data set of a table."""
    path = folder / "table.csv"
    path.write_text(table, encoding="utf-8")
    data = Data(source="csv", path=str(path), label="days", column="centre", options={"event": "died"} | options)
    return load_dataset(data, seed=0)


def test_labels_are_time_and_event(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.samples.labels.tolist() == [[100, 1], [250.5, 0], [30, 0]]
    assert found.samples.labels.dtype == np.float32
    assert found.samples.features.tolist() == [[61, 2], [70, 1], [55, 3]]
    assert found.feature_names == ("age", "stage")
    assert (found.outputs, found.class_names, found.groups.tolist()) == (1, (), ["a", "b", "a"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("70,1,0", "70,1,2", "column 'died' has 2; expected 1 for a seen event, 0 for a censored one"),
        ("250.5", "-1", "times in 'days' go from -1"),
        ("250.5", "late", "column 'days' is text"),
        ("250.5", "", "column 'days' has missing values"),
        ("died", "dead", "no column 'died'"),
    ],
)
def test_what_is_no_survival_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, TABLE.replace(old, new))


@pytest.mark.parametrize("option", [{"classes": ["no", "yes"]}, {"target": "regression"}])
def test_other_labels_beside_it_are_refused(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"drop data\.options\.{next(iter(option))}"):
        read(tmp_path, **option)


def test_it_is_for_numbers_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.options: unknown event"):
        read(tmp_path, image="age")
