"""`dictpfl init --minimal` and its like: short files, and each founds a federation on data of its kind."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.cli import app
from dictpfl.deploy.reference import commented_toml
from dictpfl.deploy.simulation.founding import found
from dictpfl.deploy.starting import KINDS, starting
from tests.support import ROOT
from tests.support.failing_disks import small_files
from tests.support.forking import ran

TOY = {"encryption.sealer": "identity", "toy_insecure": True}


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return ran(words, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_short_and_valid(kind: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(starting(kind), encoding="utf-8")  # type: ignore[arg-type]
    FederationConfig.load(tmp_path / "c.toml")
    assert len(starting(kind).splitlines()) < 40  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [["init"], ["new"], ["authority", "template"]])
def test_a_full_disk_leaves_nothing_that_the_next_try_is_refused_for(words: list[str], tmp_path: Path) -> None:
    place = tmp_path / "mine"
    with small_files(100):
        full = CliRunner().invoke(app, [*words, str(place)])
    assert full.exit_code != 0
    assert not place.exists()
    again = CliRunner().invoke(app, [*words, str(place)])
    assert again.exit_code == 0, again.output


def test_the_minimal_one_has_the_settings_of_the_figures_that_readme_shows() -> None:
    """Not the defaults, which are for a first look; whoever changes one of the two is told here."""
    measured = json.loads((ROOT / "benchmarks" / "results" / "accuracy.json").read_text())["workloads"]["digits-mlp"]
    written = tomllib.loads(starting("minimal"))
    for key in (
        "data.source",
        "model.source",
        "model.options",
        "federation.rounds",
        "training.epochs",
        "training.learning_rate",
        "decomposition.rank",
    ):
        section, _, name = key.partition(".")
        assert written[section][name] == measured["methods"]["dictpfl"]["settings"][key], key
    assert "`dictpfl init --minimal` writes" in commented_toml()


def test_as_typed(tmp_path: Path) -> None:
    done = typed(tmp_path, "init", "tables.toml", "--tabular")
    assert done.returncode == 0, done.stderr
    assert "dictpfl describe tables.toml" in done.stdout
    both = typed(tmp_path, "init", "other.toml", "--tabular", "--text")
    assert both.returncode == 1
    assert "choose one" in both.stderr
    assert not (tmp_path / "other.toml").exists()


def test_tables_with_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sites").mkdir()
    draw = np.random.default_rng(1)
    for site in ("north", "south", "west"):
        frame = pd.DataFrame(
            {"age": draw.normal(50, 9, 40), "size": draw.normal(1.7, 0.1, 40), "label": draw.integers(0, 2, 40)}
        )
        frame.loc[::7, "age"] = np.nan
        frame.to_csv(f"sites/{site}.csv", index=False)
    Path("c.toml").write_text(starting("tabular"), encoding="utf-8")
    founded = found(FederationConfig.load("c.toml", TOY), tmp_path / "run")
    assert [tally.name for tally in founded.genesis.tallies] == ["columns", "quantiles"]
    assert founded.genesis.features == ("age", "size")


def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(36):
        folder = Path("pictures", ("north", "south", "west")[number % 3], ("cat", "dog")[number // 3 % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number * 5, 0, 0)).save(folder / f"{number}.png")
    Path("c.toml").write_text(starting("images"), encoding="utf-8")
    assert found(FederationConfig.load("c.toml", TOY), tmp_path / "run").genesis.sample_shape == (3, 32, 32)
