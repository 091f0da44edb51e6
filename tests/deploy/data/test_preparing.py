"""`dictpfl data prepare`, as typed: one path of data for simulations and deployments."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dictpfl.client.data.features import ClipFeatures
from dictpfl.client.data.preparing.preparation import preparation_of
from dictpfl.client.data.raw import Table
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.stored import Stored
from dictpfl.common.config import FederationConfig
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.genesis import Genesis
from dictpfl.deploy.ceremony.charter import draw_up
from dictpfl.deploy.data.preparing import prepare
from dictpfl.deploy.simulation.founding import found
from tests.support.clips import tiny_encoder, write_clips
from tests.support.forking import ran

TOML = """
name = "patients"

[data]
source = "csv"
path = "all.csv"
label = "ill"
column = "site"
partition = "column"
features = ["height", "age"]
exclude = ["id"]
options = { classes = ["no", "yes"] }

[model]
options = { hidden = [4] }
"""
TOY = {"toy_insecure": True, "encryption.sealer": "identity"}


def rows(count: int = 60) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    age, height = draw.normal(50, 10, count), draw.normal(1.7, 0.1, count)
    return pd.DataFrame(
        {"id": range(count), "age": age, "height": height, "ill": np.where(age > 50, "yes", "no"),
         "site": [("north", "south", "west")[i % 3] for i in range(count)]}
    )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "federation.toml").write_text(TOML, encoding="utf-8")
    rows().to_csv("all.csv", index=False)
    rows().query("site == 'north'").drop(columns="site")[["ill", "age", "id", "height"]].to_csv(
        "north.csv", index=False
    )
    return tmp_path


def typed(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return ran(words, place, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_as_typed(place: Path) -> None:
    done = typed(place, "data", "prepare", "north.csv", "--config", "federation.toml")
    assert done.returncode == 0, done.stderr
    assert "features height, age" in done.stdout
    train, validation = (Samples.load(place / "institution" / f"{part}.npz") for part in ("train", "validation"))
    assert (len(train), len(validation)) == (17, 3)
    for file in (place / "institution").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = typed(place, "data", "prepare", "north.csv", "--config", "federation.toml")
    assert again.returncode == 1
    assert "would be written over" in again.stderr


def test_a_sites_own_file_need_not_name_the_site(place: Path) -> None:
    """Where the configuration says no features, the column was refused as one to exclude that is not there."""
    Path("federation.toml").write_text(TOML.replace('features = ["height", "age"]\n', ""), encoding="utf-8")
    rows().query("site == 'north'").to_csv("named.csv", index=False)
    for file in ("north.csv", "named.csv"):
        prepared = prepare(place / f"of-{file}", Path(file), config=Path("federation.toml"))
        assert prepared.features == ("age", "height")
    rows().drop(columns=["id", "site"]).to_csv("short.csv", index=False)
    with pytest.raises(DataError, match="no column 'id' to exclude"):
        prepare(place / "short", Path("short.csv"), config=Path("federation.toml"))


def test_what_an_earlier_preparation_marked_for_testing_does_not_stay_beside_other_samples(place: Path) -> None:
    """`dictpfl evaluate` would measure what trains now."""
    marked = rows().assign(part=["train", "test"] * (len(rows()) // 2))
    marked.to_csv("marked.csv", index=False)
    config, split = place / "federation.toml", {"data.split_column": "part"}
    prepare(place / "clinic", Path("marked.csv"), config=config, changes=split)
    assert (place / "clinic" / "test.npz").exists()
    for name in ("train.npz", "validation.npz"):
        (place / "clinic" / name).unlink()
    with pytest.raises(ConfigError, match=r"clinic/test\.npz would be written over"):
        prepare(place / "clinic", Path("north.csv"), config=config)
    for name in (".train.npz.killed", ".train.npz.draft", "..test.npz.draft.killed"):
        (place / "clinic" / name).touch()  # of tries that were killed while they wrote: samples, too
    prepare(place / "clinic", Path("north.csv"), config=config, replace=True)
    assert sorted(file.name for file in (place / "clinic").iterdir()) == ["train.npz", "validation.npz"]


def test_samples_of_two_preparations_never_lie_side_by_side(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a disk that fills after the first file: those of before stay, whole. Killed among its renames: the old validation
    samples, which may be among those that train now, are gone."""
    config, folder = Path("federation.toml"), place / "clinic"
    prepare(folder, Path("north.csv"), config=config)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    rows().query("site == 'north'").head(12).to_csv("fewer.csv", index=False)
    save, move = Samples.save, Path.replace

    def full(samples: Samples, path: Path) -> None:
        if "validation.npz" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(samples, path)

    with monkeypatch.context() as disk:
        disk.setattr(Samples, "save", full)
        with pytest.raises(OSError, match="No space left"):
            prepare(folder, Path("fewer.csv"), config=config, replace=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before

    def killed(path: Path, target: Path) -> Path:
        if target.name == "validation.npz":
            raise KeyboardInterrupt
        return move(path, target)

    with monkeypatch.context() as kill:
        kill.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, Path("fewer.csv"), config=config, replace=True)
    assert not (folder / "validation.npz").exists()
    prepare(folder, Path("fewer.csv"), config=config, replace=True)
    assert sorted(file.name for file in folder.iterdir()) == ["train.npz", "validation.npz"]


def test_by_genesis_each_sample_is_what_the_simulation_makes_of_the_row(place: Path) -> None:
    """One path of data: prepared by the agreed names, in whatever order the columns stand, the rows are the simulation's samples."""
    config = FederationConfig.load("federation.toml", TOY)
    founded = found(config, place / "run")
    assert Genesis.load(founded.home(0)).features == ("height", "age")
    (place / "site").mkdir(mode=0o700)
    founded.genesis.save(place / "site")  # as a bundle lays it there
    prepared = prepare(place / "site", Path("north.csv"))
    mine = np.concatenate([Samples.load(file).features for file in prepared.files])
    theirs = [Samples.load(founded.home(0) / name).features for name in ("train.npz", "validation.npz")]
    everything = {row.tobytes() for row in mine}
    assert {row.tobytes() for part in theirs for row in part} <= everything
    assert len(everything) == 20


def test_what_does_not_fit_the_agreement_is_refused(place: Path) -> None:
    founded = found(FederationConfig.load("federation.toml", TOY), place / "run")
    folder = founded.home(0)
    (folder / "train.npz").unlink()
    (folder / "validation.npz").unlink()
    with pytest.raises(ConfigError, match="would be ignored: this folder has a genesis"):
        prepare(folder, Path("north.csv"), config=Path("federation.toml"))
    with pytest.raises(ConfigError, match=r"only keys of \[data\]"):
        prepare(folder, Path("north.csv"), changes={"training.epochs": 2})
    with pytest.raises(DataError, match=r"samples of shape \(1,\), the federation agreed on \(2,\)"):
        prepare(folder, Path("north.csv"), changes={"data.features": ["age"], "data.exclude": ["id", "height"]})
    with pytest.raises(DataError, match="features age, height, the federation agreed on height, age"):
        prepare(folder, Path("north.csv"), changes={"data.features": ["age", "height"]})
    with pytest.raises(DataError, match=r"north.csv, row \d+: label .yes. is not in data.options.classes"):
        prepare(folder, Path("north.csv"), changes={"data.options": {"classes": ["no", "maybe"]}})
    with pytest.raises(ConfigError, match="nothing says how the federation reads data"):
        prepare(place / "empty", Path("north.csv"))
    assert not (folder / "train.npz").exists()


def test_classes_need_an_agreement(place: Path) -> None:
    text = TOML.replace('options = { classes = ["no", "yes"] }', "")
    (place / "federation.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="nobody agreed on their numbers"):
        prepare(place / "site", Path("north.csv"), config=Path("federation.toml"))


def test_folders_named_by_numbers_need_an_agreement_too(place: Path) -> None:
    """Without a 1, the folders 0, 2 and 3 would be the classes 0, 1 and 2."""
    for name in ["0", "2", "3"]:
        (place / "digits" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (8, 8), 20 * number).save(place / "digits" / name / f"{number}.png")
    text = '[data]\nsource = "imagefolder"\npath = "x"\noptions = { size = 8, mode = "L" }\n'
    (place / "digits.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="the classes here are 0, 2, 3, and nobody agreed on their numbers"):
        prepare(place / "site", Path("digits"), config=Path("digits.toml"))
    (place / "digits" / "2").rename(place / "digits" / "1")
    (place / "digits" / "3").rename(place / "digits" / "2")
    prepare(place / "site", Path("digits"), config=Path("digits.toml"))
    labels = Samples.load(place / "site" / "train.npz").labels
    assert set(labels.tolist()) == {0, 1, 2}


def test_names_are_part_of_the_federation_id(place: Path) -> None:
    genesis = found(FederationConfig.load("federation.toml", TOY), place / "run").genesis
    assert replace(genesis, features=("age", "height")).federation != genesis.federation
    assert replace(genesis, classes=("yes", "no")).federation != genesis.federation


def test_rows_marked_for_the_test_are_kept_apart(place: Path) -> None:
    frame = pd.read_csv("north.csv")
    frame["use"] = ["test" if n < 4 else "validation" if n < 9 else "train" for n in range(len(frame))]
    frame.to_csv("north.csv", index=False)
    prepared = prepare(
        place / "site", Path("north.csv"), config=Path("federation.toml"), changes={"data.split_column": "use"}
    )
    assert {file.name: count for file, count in prepared.files.items()} == {
        "train.npz": 11,
        "validation.npz": 5,
        "test.npz": 4,
    }


def test_pictures(place: Path) -> None:
    for number in range(8):
        folder = place / "pictures" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), number * 20).save(folder / f"{number}.png")
    (place / "pictures.toml").write_text(
        '[data]\nsource = "imagefolder"\npath = "everybody"\npartition = "column"\n'
        'options = { sites = true, size = 8, mode = "L", classes = ["cat", "dog"] }\n',
        encoding="utf-8",
    )
    done = typed(place, "data", "prepare", "pictures", "--config", "pictures.toml", "--folder", "clinic")
    assert done.returncode == 0, done.stderr
    assert Samples.load(place / "clinic" / "train.npz").features.shape[1:] == (1, 8, 8)


def test_a_deployment_prepares_what_its_authority_never_saw(place: Path) -> None:
    """The authority has names alone; an institution prepares its file by the genesis of its bundle, and its rows stay as they stand."""
    text = TOML.replace(
        "[model]", '[data.preprocessing]\nimpute = "mean"\nscale = "standard"\ncategories = { site = 8 }\n\n[model]'
    )
    text = text.replace('features = ["height", "age"]', 'features = ["height", "age", "site"]').replace(
        'column = "site"\n', ""
    )
    text = text.replace('partition = "column"', "") + "\n[federation]\nsample_cap = 64\n"
    (place / "federation.toml").write_text(text, encoding="utf-8")
    config = FederationConfig.load("federation.toml")
    with pytest.raises(ConfigError, match=r"the 3 columns of data.features make 11 features; set it to 11"):
        draw_up(config, (3,), 2)
    genesis = draw_up(config, (11,), 2).genesis
    assert (genesis.features, genesis.classes) == (("height", "age", "site"), ("no", "yes"))
    assert [tally.name for tally in genesis.tallies] == ["columns"]
    (place / "clinic").mkdir(mode=0o700)
    genesis.save(place / "clinic")
    frame = rows()
    frame.loc[::5, "age"] = np.nan
    frame.to_csv("clinic.csv", index=False)
    prepared = prepare(place / "clinic", Path("clinic.csv"))
    assert prepared.sample_shape == (11,)
    table = Table.load(place / "clinic" / "train.npz")
    assert table.features.shape[1] == 3
    assert np.isnan(table.features[:, 1]).any()
    stored = Stored(place / "clinic" / "train.npz", preparing=preparation_of(genesis.config))
    assert stored.open(genesis.start()).features.shape == (0, 11), "nobody trains before the sums are opened"
    with pytest.raises(DataError, match="prepared by its federation's statistics"):
        Samples.load(place / "clinic" / "train.npz")


def test_encoders_of_clips_need_an_agreement(place: Path) -> None:
    """Features of two encoders have one shape: who has another than the federation's is told, and so is who nobody agreed with."""
    write_clips(place / "clips", each=4)
    tiny_encoder(place / "encoder")
    tiny_encoder(place / "other", seed=1)
    text = """
[data]
source = "videofolder"
options = { classes = ["dark", "bright"], frames = 4, features = "timm:encoder" }

[model]
source = "video"
options = { width = 8, layers = 1, heads = 2 }
"""
    (place / "clips.toml").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="nobody agreed on it") as refused:
        prepare(place / "one", Path("clips"), config=Path("clips.toml"))
    agreed = re.search(r'data\.options\.features_sha256 = "(\w{64})"', str(refused.value))
    assert agreed is not None
    changes = {"data.path": "clips", "data.options.features_sha256": agreed[1]} | TOY
    founded = found(FederationConfig.load("clips.toml", changes), place / "run")
    (place / "elsewhere").mkdir()
    (place / "encoder").rename(place / "elsewhere" / "encoder")
    for name in ("train.npz", "validation.npz"):
        (founded.home(0) / name).unlink()
    own = {"data.options.features": "timm:elsewhere/encoder"}
    prepared = prepare(founded.home(0), Path("clips"), changes=own)
    assert prepared.sample_shape == (4, 5, 9)
    with pytest.raises(ConfigError, match=f"all agreed on {agreed[1]}"):
        prepare(founded.home(0), Path("clips"), changes={"data.options.features": "timm:other"}, replace=True)
    other = ClipFeatures({"features": "timm:other", "frames": 4}, place / "clips").recipe.digest
    both = {"data.options.features": "timm:other", "data.options.features_sha256": other}
    with pytest.raises(DataError, match=f"the federation agreed on '{agreed[1]}'"):
        prepare(founded.home(0), Path("clips"), changes=both, replace=True)


def test_another_kind_of_file_needs_no_delimiter(place: Path) -> None:
    """What the agreed kind alone has is no option of the kind here."""
    agreed = TOML.replace("options = { ", 'options = { delimiter = ",", ', 1)
    (place / "federation.toml").write_text(agreed, encoding="utf-8")
    pd.read_csv("north.csv").to_parquet("north.parquet")
    prepared = prepare(
        place / "site", Path("north.parquet"), config=Path("federation.toml"), changes={"data.source": "parquet"}
    )
    assert sum(prepared.files.values()) == 20
