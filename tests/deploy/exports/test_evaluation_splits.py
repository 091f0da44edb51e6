"""What `dictpfl evaluate` measures where a federation's data say which samples are for the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DataError
from dictpfl.deploy.exports.evaluation import evaluate_on
from dictpfl.deploy.simulation.simulate import simulate

pytestmark = pytest.mark.usefixtures("quiet")


def table(path: Path, count: int, seed: int, **columns: Any) -> Path:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 3))
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "label": (x[:, 0] > 0).astype(int)} | columns)
    frame.to_csv(path, index=False)
    return path


def run(folder: Path, **data: Any) -> Path:
    simulate(
        FederationConfig.of(
            {
                "federation": {"rounds": 1},
                "data": {"source": "csv", **data},
                "model": {"source": "mlp", "options": {"hidden": [8]}},
            }
        ),
        folder,
        engine="local",
    )
    return folder


def test_another_file_is_measured_without_the_federation_s_test_file(tmp_path: Path) -> None:
    path, test, own = (table(tmp_path / f"{name}.csv", n, n) for name, n in (("path", 60), ("test", 20), ("own", 33)))
    folder = run(tmp_path / "run", path=str(path), test_path=str(test), test_limit=15)
    assert evaluate_on(folder).samples == 15
    assert evaluate_on(folder, own).samples == 33
    assert evaluate_on(folder, changes={"data.path": str(own)}).samples == 33


def test_of_a_table_with_marks_the_test_rows_are_measured(tmp_path: Path) -> None:
    marks = ["train", "train", "test", "validation"] * 15
    path = table(tmp_path / "path.csv", 60, 1, part=marks)
    folder = run(tmp_path / "run", path=str(path), split_column="part")
    assert evaluate_on(folder).samples == 15
    assert evaluate_on(folder, path).samples == 15
    plain = table(tmp_path / "plain.csv", 12, 2)
    with pytest.raises(DataError, match="no column 'part'"):
        evaluate_on(folder, plain)
    assert evaluate_on(folder, plain, {"data.split_column": ""}).samples == 12


def test_classes_of_the_run_s_own_test_split_have_their_names(tmp_path: Path) -> None:
    path = table(tmp_path / "path.csv", 60, 1, label=["sick", "well", "well"] * 20)
    folder = run(tmp_path / "run", path=str(path))
    assert evaluate_on(folder).names == ("sick", "well")
    assert evaluate_on(folder, path).names == ("sick", "well")
    assert evaluate_on(folder / "institutions" / "institution-000").names == ()
