"""What `dictpfl evaluate` measures where a federation's data say which samples are for the test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.sources import columns
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Training
from dictpfl.deploy.cli import app
from dictpfl.deploy.exports.evaluation import _arithmetic, _said, _samples, evaluate_on, of_dataset
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import tiny

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
    folder = run(tmp_path / "run", path=str(path), split_column="part", test_limit=14)
    assert evaluate_on(folder).samples == 14
    assert evaluate_on(folder, path).samples == 15
    assert evaluate_on(folder, path, {"data.test_limit": 7}).samples == 7
    plain = table(tmp_path / "plain.csv", 12, 2)
    with pytest.raises(DataError, match=r"no column 'part' .* by --set data\.split_column="):
        evaluate_on(folder, plain)
    assert evaluate_on(folder, plain, {"data.split_column": ""}).samples == 12
    for changes in ({"data.split_column": ""}, {"data.split_column": "", "data.limit": 50}):
        with pytest.raises(ConfigError, match="samples that it was trained on included"):
            evaluate_on(folder, changes=changes)


def test_rows_that_trained_are_not_measured_because_a_test_file_is_left_out(tmp_path: Path) -> None:
    path, test = table(tmp_path / "path.csv", 60, 1), table(tmp_path / "test.csv", 20, 2)
    folder = run(tmp_path / "run", path=str(path), test_path=str(test))
    with pytest.raises(ConfigError, match="samples that it was trained on included"):
        evaluate_on(folder, changes={"data.test_path": ""})
    assert evaluate_on(folder, changes={"data.test_path": str(table(tmp_path / "more.csv", 31, 3))}).samples == 31
    for changes in ({"data.path": str(path)}, {"data.source": "csv", "data.path": str(path)}):
        with pytest.raises(ConfigError, match="samples that it was trained on included"):
            evaluate_on(folder, changes=changes)
    assert evaluate_on(folder, changes={"data.source": "csv", "data.limit": 50}).samples == 20


def test_the_federation_s_limit_is_none_of_other_data(tmp_path: Path) -> None:
    path, own = table(tmp_path / "path.csv", 60, 1), table(tmp_path / "own.csv", 50, 2)
    folder = run(tmp_path / "run", path=str(path), limit=40)
    assert evaluate_on(folder, own).samples == 50
    assert evaluate_on(folder, own, {"data.limit": 7}).samples == 7


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_table_need_not_say_which_institution_has_a_row(tmp_path: Path, kind: str) -> None:
    sites = ["one", "two", "three"] * 20
    path = table(tmp_path / "path.csv", 60, 1, site=sites)
    folder = run(tmp_path / "run", path=str(path), partition="column", column="site")
    plain, named = pd.read_csv(table(tmp_path / "plain.csv", 12, 2)), pd.read_csv(path)
    for frame, name in ((plain, "new"), (named, "same")):
        if kind == "csv":
            frame.to_csv(tmp_path / f"{name}.csv", index=False)
        elif kind == "parquet":
            frame.to_parquet(tmp_path / f"{name}.parquet")
        else:
            frame.to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
    source = {"data.source": kind}
    assert evaluate_on(folder, tmp_path / f"new.{kind}", source).samples == 12
    assert evaluate_on(folder, tmp_path / f"same.{kind}", source).samples == 60
    plain.drop(columns="b").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(DataError, match="no column 'b'"):
        evaluate_on(folder, tmp_path / "less.csv")


def test_classes_of_the_run_s_own_test_split_have_their_names(tmp_path: Path) -> None:
    path = table(tmp_path / "path.csv", 60, 1, label=["sick", "well", "well"] * 20)
    folder = run(tmp_path / "run", path=str(path))
    assert evaluate_on(folder).names == ("sick", "well")
    assert evaluate_on(folder, path).names == ("sick", "well")
    assert evaluate_on(folder / "institutions" / "institution-000").names == ("sick", "well"), "genesis has them"


def test_an_institution_s_own_samples_have_the_agreed_names(tmp_path: Path) -> None:
    """Of classes that are called by numbers, those of their places were taken for their names."""
    config = FederationConfig.of({"data": {"source": "csv", "path": "x.csv", "options": {"classes": ["1", "2", "3"]}}})
    finished: Any = SimpleNamespace(genesis=SimpleNamespace(config=config))
    Samples(np.zeros((2, 1), np.float32), np.array([0, 2])).save(tmp_path / "validation.npz")
    assert _samples(finished, tmp_path, None, {})[1] == ("1", "2", "3")


def pictures(folder: Path, *names: str) -> Path:
    """A folder of pictures for each class, of one grey each."""
    greys = {"ape": 20, "bee": 120, "cat": 230}
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(12):
            Image.new("L", (8, 8), greys[name] + number).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("lazy", [False, True])
def test_data_without_some_classes_have_the_federation_s_numbers(tmp_path: Path, *, lazy: bool) -> None:
    """By themselves bees and cats are numbered 0 and 1: apes and bees of the model."""
    every = pictures(tmp_path / "all", "ape", "bee", "cat")
    config = FederationConfig.of(
        {
            "federation": {"rounds": 12},
            "data": {"source": "imagefolder", "path": str(every), "lazy": lazy, "options": {"size": 8, "mode": "L"}},
            "training": {"learning_rate": 0.02},
            "model": {"source": "mlp", "options": {"hidden": [16]}},
        }
    )
    run = simulate(config, tmp_path / "run", engine="local")
    some = pictures(tmp_path / "some", "bee", "cat")
    whole, found = evaluate_on(run.folder, every), evaluate_on(run.folder, some)
    assert found.names == ("ape", "bee", "cat")
    assert whole.metric > 0.9
    assert found.recall == {number: whole.recall[number] for number in (1, 2)}
    home = run.folder / "institutions" / "institution-000"
    assert evaluate_on(home, some).recall == found.recall
    assert evaluate_on(home).names == found.names
    (some / "cat").rename(some / "cow")
    with pytest.raises(DataError, match="the data have classes cow, the federation ape, bee, cat"):
        evaluate_on(run.folder, some)


@pytest.mark.parametrize("lazy", [False, True])
def test_pictures_that_cannot_be_read_are_left_out_of_every_figure(tmp_path: Path, *, lazy: bool) -> None:
    """Read by the batch, they were left out of the accuracy, and an error where classes were counted."""
    every = pictures(tmp_path / "all", "ape", "bee", "cat")
    said = {"source": "imagefolder", "path": str(every), "lazy": lazy, "skip_broken": True}
    config = FederationConfig.of(
        {
            "federation": {"rounds": 1},
            "data": {**said, "options": {"size": 8, "mode": "L"}},
            "model": {"source": "mlp", "options": {"hidden": [8]}},
        }
    )
    run = simulate(config, tmp_path / "run", engine="local")
    some = pictures(tmp_path / "some", "ape", "bee", "cat")
    (some / "bee" / "3.png").write_bytes(b"nothing of a picture")
    found = evaluate_on(run.folder, some)
    assert found.samples == 35
    assert {number: count for number, (count, _) in found.recall.items()} == {0: 12, 1: 11, 2: 12}


def test_a_table_s_rows_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its columns are stands in its first line: of a large one, all rows were read for that, and then again."""
    path = table(tmp_path / "path.csv", 60, 1, site=["one", "two", "three"] * 20)
    folder = run(tmp_path / "run", path=str(path), partition="column", column="site")
    rows, real = list[int](), columns.read_separated

    def read(*given: Any, **named: Any) -> pd.DataFrame:
        frame = real(*given, **named)
        rows.append(len(frame))
        return frame

    monkeypatch.setattr(columns, "read_separated", read)
    assert evaluate_on(folder, table(tmp_path / "plain.csv", 12, 2)).samples == 12
    assert rows == [1, 12]


def test_outputs_that_are_no_numbers_recognise_no_class() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    samples = Samples(np.array([[1.0], [3e38], [1.0]], np.float32), np.zeros(3, np.int64))
    with torch.no_grad():  # the second sample's hidden values are both infinite, and their difference is no number
        model[0].weight.fill_(10.0)
        model[1].weight.copy_(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
    found = _said(model, samples)
    assert found is not None
    said, labels = found
    assert said.tolist() == [0, -1, 0]
    assert len(labels) == len(said)


@pytest.mark.parametrize("shape", [(), (1,), (2, 5)])
def test_outputs_that_are_no_classes_recognise_none(shape: tuple[int, ...]) -> None:
    """Both sides of a pair, or one number: the place of the largest was shown as the class that was recognised, or was a traceback."""

    class Other(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_zeros(len(x), *shape)

    assert _said(Other(), Samples(np.zeros((3, 1), np.float32), np.zeros(3, np.int64))) is None


def test_whole_numbers_of_a_regression_are_not_said_to_want_names() -> None:
    finished: Any = SimpleNamespace(genesis=SimpleNamespace(outputs=1))
    prices = Dataset(
        Samples(np.zeros((2, 1), np.float32), np.array([7, 300])), 301, class_names=tuple(map(str, range(301)))
    )
    with pytest.raises(DataError, match=r"data\.options\.target"):
        of_dataset(finished, prices)


def test_arithmetic_that_rounds_alone_have_is_said(tmp_path: Path) -> None:
    simulate(tiny(training__autocast="bfloat16", federation__rounds=1), tmp_path / "narrow", engine="local")
    said = CliRunner().invoke(app, ["evaluate", str(tmp_path / "narrow")])
    assert said.exit_code == 0, said.output
    assert "measured without training.autocast = bfloat16, which the rounds have" in " ".join(said.output.split())
    assert _arithmetic(Training()) == ""
