"""The preparation beside an exported model: JSON that says all that a program without dictpfl needs."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from dictpfl.client.data.columns import Columns
from dictpfl.client.data.preparing.preparation import Preparation, Scaling
from dictpfl.client.data.raw import Table
from dictpfl.common.law.state import SharedState
from dictpfl.common.settings import Preprocessing, Recipe
from dictpfl.deploy.exports.columns import described

SAID = Preprocessing(
    impute="mean", columns={"dose": Recipe(clip=[0.1, 0.9])}, categories={"sex": ["f", "m"], "ward": 3}, least=2
)


class Known(Preparation):
    """A preparation whose statistics are given."""

    def scalings(self, state: SharedState) -> dict[str, Scaling]:
        return {"age": Scaling(40.0, -np.inf, np.inf, 50.0, 10.0), "dose": Scaling(1.0, 0.5, 2.5, 1.5, 0.25)}

    def kept(self, state: SharedState) -> dict[str, NDArray[np.bool_]]:
        return {"sex": np.array([True, False]), "ward": np.array([True, True, False])}


def plain(rows: pd.DataFrame, said: dict[str, Any]) -> NDArray[np.float64]:
    """What docs/how-to/your-data.md says, row by row."""
    prepared = []
    for _, row in rows.iterrows():
        features: list[float] = []
        for column in said["columns"]:
            value = row[column["name"]]
            if "fill" in column:
                number = column["fill"] if pd.isna(value) else float(value)
                number = max(number, -np.inf if column["low"] is None else column["low"])
                number = min(number, np.inf if column["high"] is None else column["high"])
                features.append((number - column["centre"]) / column["spread"])
                continue
            place = None
            if not pd.isna(value) and "buckets" in column:
                digest = hashlib.sha256(str(value).encode()).digest()[:8]
                place = int.from_bytes(digest, "little") % column["buckets"]
            elif value in column.get("categories", []):
                place = column["categories"].index(value)
            if place is None or not column["kept"][place]:
                place = len(column["kept"])
            features += [float(number == place) for number in range(len(column["kept"]) + 1)]
        prepared.append(features)
    return np.array(prepared)


def test_it_says_what_dictpfl_does() -> None:
    rows = pd.DataFrame(
        {"age": [30.0, np.nan, 61.0], "dose": [0.1, 9.0, 1.0], "sex": ["m", "f", None], "ward": ["surgery", None, "medicine"]}
    )  # fmt: skip
    columns = Columns(("age", "dose", "sex", "ward"), SAID)
    made = Known(columns)
    state: Any = None
    said = json.loads(json.dumps(described(made, state)))
    table = Table(columns.encode(rows, "rows"), np.zeros(3, np.int64))
    np.testing.assert_allclose(made.samples(table, state).features, plain(rows, said), rtol=1e-6)
    assert said["features"] == [
        "age",
        "dose",
        "sex=f",
        "sex=m",
        "sex=other",
        "ward=0",
        "ward=1",
        "ward=2",
        "ward=other",
    ]
    said["columns"][1]["high"] = 1.0
    assert plain(rows, said)[1, 1] != pytest.approx(made.samples(table, state).features[1, 1])


@pytest.mark.parametrize("kind", ["int64", "float64", "float32", "Int64", "category"])
def test_a_category_is_the_same_whatever_type_its_file_has(kind: str) -> None:
    said = Preprocessing(categories={"ward": ["1", "2"], "unit": 8})
    rows = pd.DataFrame({"ward": [1, 2, 3], "unit": [1, 2, 3]})
    found = Columns(("ward", "unit"), said).encode(rows.astype(kind), "rows")
    np.testing.assert_array_equal(found, Columns(("ward", "unit"), said).encode(rows, "rows"))
    assert found[:, 0].tolist() == [0, 1, -1]


def test_an_infinite_category_is_another() -> None:
    rows = pd.DataFrame({"ward": [1.0, np.inf, np.nan]})
    assert Columns(("ward",), Preprocessing(categories={"ward": ["1"]})).encode(rows, "rows")[:, 0].tolist() == [
        0,
        -1,
        -1,
    ]
