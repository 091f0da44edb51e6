"""Classes are agreed, or refused with site, row and word: as typed, simulated and at an institution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dictpfl.client.data.source import load_dataset
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import DataError
from dictpfl.common.settings import Data
from dictpfl.deploy.data.preparing import prepare
from dictpfl.deploy.simulation.founding import found
from tests.deploy.data.test_preparing import typed

TOML = """
name = "wards"

[federation]
rounds = 1
participants = 3

[data]
source = "csv"
label = "ill"
paths = { north = "north.csv", south = "south.csv", west = "west.csv" }

[model]
source = "mlp"
options = { hidden = [4] }
"""
NAMED = TOML + '\n[data.options]\nclasses = ["no", "yes"]\n'

TOY = {"toy_insecure": True, "encryption.sealer": "identity"}


def rows(words: tuple[str, ...] = ("no", "yes"), count: int = 20) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    return pd.DataFrame(
        {"age": draw.normal(size=count), "ill": [words[number % len(words)] for number in range(count)]}
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("wards.toml").write_text(TOML, encoding="utf-8")
    for site in ("north", "south", "west"):
        rows().to_csv(f"{site}.csv", index=False)
    return tmp_path


def lines(text: str) -> str:
    return " ".join(text.split())


def test_a_spelling_of_one_site_is_no_class(place: Path) -> None:
    rows(("no", "Yes")).to_csv("west.csv", index=False)
    for command in (("simulate", "wards.toml", "--engine", "local"), ("describe", "wards.toml")):
        done = typed(place, *command)
        assert done.returncode == 1, done.stdout
        assert "west.csv, row 2: label 'Yes' differs from 'yes' only by case or blanks." in lines(done.stderr)


def test_a_word_that_not_every_site_shows_is_no_class_until_it_is_named(place: Path) -> None:
    frame = rows()
    frame.loc[[4, 9, 11], "ill"] = "unknown"
    frame.to_csv("south.csv", index=False)
    done = typed(place, "simulate", "wards.toml", "--engine", "local")
    assert done.returncode == 1
    said = lines(done.stderr)
    assert "south.csv, row 5: label 'unknown' is a class at south and not at north, west." in said
    assert 'set data.options.classes = ["no", "unknown", "yes"]' in said
    classes = 'data.options={classes = ["no", "unknown", "yes"]}'
    done = typed(place, "simulate", "wards.toml", "--engine", "local", "--set", classes, "--out", "run")
    assert done.returncode == 0, done.stderr


def test_a_site_may_lack_a_class_that_is_named(place: Path) -> None:
    rows(("no",)).to_csv("west.csv", index=False)
    with pytest.raises(DataError, match=r"label 'yes' is a class at north, south and not at west"):
        load_dataset(FederationConfig.load("wards.toml").data, 1)
    Path("named.toml").write_text(NAMED, encoding="utf-8")
    assert load_dataset(FederationConfig.load("named.toml").data, 1).class_names == ("no", "yes")


def test_an_institution_refuses_at_home_what_is_not_named(place: Path) -> None:
    frame = rows()
    frame.loc[7, "ill"] = "Yes"
    frame.to_csv("west.csv", index=False)
    Path("named.toml").write_text(NAMED, encoding="utf-8")
    done = typed(place, "data", "prepare", "west.csv", "--config", "named.toml")
    assert done.returncode == 1
    assert "west.csv, row 8: label 'Yes' is not in data.options.classes." in lines(done.stderr)
    assert not (place / "institution" / "train.npz").exists()


def test_an_institution_refuses_a_number_beyond_the_agreed_ones(place: Path) -> None:
    for site in ("north", "south", "west"):
        rows().assign(ill=[number % 2 for number in range(20)]).to_csv(f"{site}.csv", index=False)
    founded = found(FederationConfig.load("wards.toml", TOY), place / "run")
    (place / "site").mkdir()
    founded.genesis.save(place / "site")
    frame = rows().assign(ill=[number % 2 for number in range(20)])
    frame.loc[5, "ill"] = 9
    frame.to_csv("west.csv", index=False)
    with pytest.raises(DataError, match=r"west\.csv, row 6: label '?9'?"):
        prepare(place / "site", Path("west.csv"))


@pytest.mark.parametrize(
    ("south", "said"),
    [
        (["1.0", "0.0"], ""),  # numbers, whatever a file writes them like
        (["1.0", "0.0", "unknown"], r"label 'unknown' is a class at south and not at north, west"),
        (["NA", "1"], r"south\.csv, row 1: column 'ill' has missing values"),
    ],
)
def test_numbers_blanks_and_missing_words(place: Path, south: list[str], said: str) -> None:
    for site in ("north", "west"):
        rows(("0", "1")).to_csv(f"{site}.csv", index=False)
    rows(tuple(south)).to_csv("south.csv", index=False)
    data = FederationConfig.load("wards.toml").data
    if not said:
        found = load_dataset(data, 1)
        assert (found.class_names, set(found.samples.labels.tolist())) == (("0", "1"), {0, 1})
        return
    with pytest.raises(DataError, match=said):
        load_dataset(data, 1)


def test_blanks_are_no_class(place: Path) -> None:
    rows(("no", "yes ")).to_csv("south.csv", index=False)
    with pytest.raises(DataError, match=r"south\.csv, row 2: label 'yes ' differs from 'yes' only by case or blanks"):
        load_dataset(FederationConfig.load("wards.toml").data, 1)


def test_rows_of_one_table_are_compared_by_site_lazily_too(place: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.concat([pd.read_csv(f"{site}.csv").assign(site=site) for site in ("north", "south", "west")])
    frame.iloc[25, frame.columns.get_loc("ill")] = "unknown"
    frame.to_parquet("all.parquet", row_group_size=8)
    for lazy in (False, True):
        data = Data(source="parquet", path="all.parquet", label="ill", partition="column", column="site", lazy=lazy)
        with pytest.raises(DataError, match=r"^all\.parquet, row 26: label 'unknown' is a class at south and not at"):
            load_dataset(data, 1)


def test_folders_of_pictures_are_compared_by_site(place: Path) -> None:
    for site, names in {"a": ("cat", "dog"), "b": ("cat", "Dog"), "c": ("cat", "dog")}.items():
        for name in names:
            (place / "pictures" / site / name).mkdir(parents=True)
            Image.new("L", (4, 4)).save(place / "pictures" / site / name / "1.png")
    data = Data(source="imagefolder", path="pictures", partition="column", options={"sites": True, "size": 4})
    with pytest.raises(DataError, match=r"b/Dog/1\.png: label 'Dog' differs from 'dog' only by case"):
        load_dataset(data, 1)
    (place / "pictures" / "b" / "Dog").rename(place / "pictures" / "b" / "fox")
    with pytest.raises(DataError, match=r"b/fox/1\.png: label 'fox' is a class at b and not at a, c"):
        load_dataset(data, 1)


def test_classes_that_nobody_named_are_told_with_their_samples(place: Path) -> None:
    """All sites show it, so it may be one: a founder sees it, and how few samples it has."""
    for site in ("north", "south", "west"):
        frame = rows()
        frame.loc[3, "ill"] = "unknown"
        frame.to_csv(f"{site}.csv", index=False)
    done = typed(place, "describe", "wards.toml")
    assert done.returncode == 0, done.stderr
    assert "are those of the labels, with their samples: unknown (3), yes (27), no (30)" in lines(done.stderr)
    done = typed(place, "describe", "wards.toml", "--set", 'data.options={classes = ["no", "unknown", "yes"]}')
    assert "are those of the labels" not in lines(done.stderr)


def test_numbers_that_no_label_has_are_told(place: Path) -> None:
    for site in ("north", "south", "west"):
        rows().assign(ill=[number % 2 for number in range(20)]).to_csv(f"{site}.csv", index=False)
    frame = pd.read_csv("south.csv")
    assert not found(FederationConfig.load("wards.toml", TOY), place / "plain").notes
    frame.loc[2, "ill"] = 2
    frame.to_csv("south.csv", index=False)
    (note,) = found(FederationConfig.load("wards.toml", TOY), place / "run").notes
    assert "2 (1, all at south)" in note
