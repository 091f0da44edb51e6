"""Names of the Hugging Face hub: what they mean, what is downloaded, and what is said without a network."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dictpfl.client.data import hubs
from dictpfl.client.data.source import load_dataset
from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.settings import Data

hub = pytest.importorskip("huggingface_hub")
from huggingface_hub.errors import HfHubHTTPError  # noqa: E402 -- only where it is installed

CONVERTED = "refs/convert/parquet"


class Hub:
    """A hub of one data set, as folders; counts what is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.network = folder, [], True

    def list_repo_files(self, name: str, *, repo_type: str, revision: str) -> list[str]:
        assert repo_type == "dataset"
        if not self.network:
            raise HfHubHTTPError.__bases__[0]("no route to host")  # as its own library of HTTP says it
        root = self.folder / name / revision
        return sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())

    def hf_hub_download(self, name: str, file: str, *, repo_type: str, revision: str, local_files_only: bool) -> str:
        assert local_files_only is not self.network
        self.asked.append(file)
        return str(self.folder / name / revision / file)

    def snapshot_download(self, name: str, *, repo_type: str, revision: str, local_files_only: bool) -> str:
        assert local_files_only
        if not (self.folder / name / revision).is_dir():
            raise FileNotFoundError(name)
        return str(self.folder / name / revision)


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    here = Hub(tmp_path / "hub")
    monkeypatch.setattr(hub, "HfApi", lambda: here)
    monkeypatch.setattr(hub, "hf_hub_download", here.hf_hub_download)
    monkeypatch.setattr(hub, "snapshot_download", here.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return here


def put(online: Hub, name: str, file: str, numbers: list[int], revision: str = CONVERTED) -> None:
    path = online.folder / name / revision / file
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"x": [float(n) for n in numbers], "label": [n % 2 for n in numbers]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), path)


def load(path: str, **settings: Any) -> list[float]:
    found = load_dataset(Data(source="parquet", path=path, **settings), seed=1)
    assert found.class_names == ("cat", "dog")
    return [float(value) for value in found.samples.features[:, 0]]


def test_a_name_is_all_files_of_its_training_split(online: Hub) -> None:
    put(online, "lab/pets", "default/train/0001.parquet", [2, 3])
    put(online, "lab/pets", "default/train/0000.parquet", [0, 1])
    put(online, "lab/pets", "default/test/0000.parquet", [8, 9])
    assert load("lab/pets") == [0, 1, 2, 3]
    assert load("lab/pets:test") == load("lab/pets/default:test") == [8, 9]
    assert load("lab/pets", test_path="lab/pets:test") == [0, 1, 2, 3, 8, 9]
    assert "default/test/0000.parquet" not in online.asked[:2], "what is not used is not downloaded"


def test_an_address_is_one_file_of_the_repository(online: Hub) -> None:
    put(online, "lab/pets", "raw/a.parquet", [4, 5], "main")
    put(online, "lab/pets", "raw/a.parquet", [6], "v2")
    assert load("hf://datasets/lab/pets/raw/a.parquet") == [4, 5]
    assert load("hf://datasets/lab/pets@v2/raw/a.parquet") == [6]
    with pytest.raises(DataError, match=r"no file 'b\.parquet'; it has raw/a\.parquet"):
        load("hf://datasets/lab/pets/b.parquet")
    with pytest.raises(ConfigError, match="expected hf://datasets/OWNER/NAME/FILE"):
        load("hf://datasets/lab")


def test_what_a_name_leaves_open_is_asked_for(online: Hub) -> None:
    for config in ("large", "small"):
        put(online, "lab/two", f"{config}/train/0000.parquet", [0, 1])
    put(online, "lab/cut", "default/partial-train/0000.parquet", [0, 1])
    with pytest.raises(DataError, match=r"configurations large, small; name one, as in OWNER/NAME/large"):
        load("lab/two")
    assert load("lab/two/small") == [0, 1]
    with pytest.raises(DataError, match=r"no parquet files of the configuration 'huge'; there are large, small"):
        load("lab/two/huge")
    with pytest.raises(DataError, match="no split 'train'; there are partial-train"):
        load("lab/cut")


def test_without_a_network_what_was_downloaded_is_read_and_the_rest_is_said(online: Hub) -> None:
    put(online, "lab/pets", "default/train/0000.parquet", [0, 1])
    online.network = False
    assert load("lab/pets") == [0, 1]
    with pytest.raises(
        ConfigError, match=r"no such file or folder here, and the data set 'lab/birds'.*no route.*hf download"
    ):
        load("lab/birds")


def test_offline_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library itself, told that there is no network: it must not go through its waits."""
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(ConfigError, match="cannot be had from the hub"):
        load("lab/nothing-of-that-name")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("lab/pets", "parquet", True),
        ("lab/pets:test", "parquet", True),
        ("hf://datasets/lab/pets/a.csv", "csv", True),
        ("lab/pets", "csv", False),
        ("lab/pets.parquet", "parquet", False),
        ("./lab/pets", "parquet", False),
        ("/lab/pets", "parquet", False),
        ("~/pets", "parquet", False),
        ("here/pets", "parquet", False),
        ("pets", "parquet", False),
    ],
)
def test_what_is_a_hub_s_name(
    path: str, source: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()  # a mistyped file of a folder that is here is no name of a hub
    monkeypatch.chdir(tmp_path)
    assert hubs.is_hub(path, source) is expected


def test_a_missing_file_is_no_question_to_the_hub(online: Hub) -> None:
    (Path.cwd() / "data").mkdir()
    with pytest.raises(DataError, match="no file data/gone, seen from"):
        load_dataset(Data(source="parquet", path="data/gone"), seed=1)
    pd.DataFrame({"x": [1.0, 2.0], "label": [0, 1]}).to_parquet("data/gone")
    assert len(load_dataset(Data(source="parquet", path="data/gone"), seed=1).samples) == 2
