"""The folder that `dictpfl app write` makes; `tests/processes/test_flower_app.py` runs it with stock Flower programs."""

from __future__ import annotations

import io
import os
import runpy
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Never
from unittest import mock

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from typer.testing import CliRunner

from dictpfl.common.errors import ConfigError, DataError
from dictpfl.common.messages.protocol import Request, RoundKind
from dictpfl.deploy.app.bundle import build
from dictpfl.deploy.app.writing import own_modules, write_federation
from dictpfl.deploy.cli import app as commands_of_all
from dictpfl.deploy.simulation.local import FIRST_NODE, RUN
from dictpfl.server.messages import encode_request
from tests.support.federations import as_toml, encrypted

cloudpickle = pytest.importorskip("ray.cloudpickle")


def test_the_bundle_has_the_code_and_no_key_nor_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(as_toml())
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n\n\ndef net(sample_shape, outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = encrypted(name='Ward "7"', model__source="nets:net", model__options={})
    app = write_federation(config, tmp_path / "app", source=tmp_path / "mine.toml", publisher="ward")
    project = tomllib.loads((app / "pyproject.toml").read_text())
    assert project["project"]["name"] == "ward-7"
    assert any(line.startswith("torch") for line in project["project"]["dependencies"])
    with zipfile.ZipFile(io.BytesIO(build(app))) as fab:
        names = set(fab.namelist())
    assert {"flower_app/server_app.py", "flower_app/client_app.py", "dictpfl/server/app.py", "nets.py"} <= names
    assert [
        name for name in names if name.startswith("parties") or name.endswith((".npz", ".key", ".safetensors", ".json"))
    ] == []
    assert (app / "parties" / "institutions" / "institution-002" / "federation.key").exists()
    assert (app / ".gitignore").read_text() == "/parties/\n"


def test_a_folder_that_the_environment_names_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(as_toml())
    app = tmp_path / "app \N{GRINNING FACE}"
    write_federation(encrypted(), app, source=tmp_path / "mine.toml", publisher="me \N{GRINNING FACE}")
    assert (
        tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["publisher"]
        == "me \N{GRINNING FACE}"
    )
    for folder in (str(app / "parties" / "coordinator"), "/elsewhere"):
        runpy.run_path(str(app / "flower_app" / "server_app.py"))
        assert os.environ["DICTPFL_COORDINATOR"] == folder
        monkeypatch.setenv("DICTPFL_COORDINATOR", "/elsewhere")
    for name in ("_task_id", "_run_id", "_node_id"):  # of the process that Flower would have started
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.delenv("DICTPFL_INSTITUTIONS", raising=False)
    assert asked(app) == app / "parties" / "institutions" / "institution-001"
    monkeypatch.setenv("DICTPFL_INSTITUTIONS", "/elsewhere")
    assert asked(app) == Path("/elsewhere/institution-001")


def asked(app: Path) -> Path:
    """The folder that a request finds in a worker of a Ray cluster, which began before the app and lacks the environment of its program."""
    sent = cloudpickle.dumps(runpy.run_path(str(app / "flower_app" / "client_app.py"))["app"])
    opened: list[Path] = []

    def opening(folder: Path) -> Never:
        opened.append(folder)
        raise DataError("enough")

    request = Message(
        encode_request(Request(0, RoundKind.UPDATE, bytes(32), bytes(32))), dst_node_id=FIRST_NODE, message_type="train"
    )
    context = Context(RUN, FIRST_NODE, {"partition-id": 1}, RecordDict(), {})
    with (
        mock.patch.dict(os.environ),
        mock.patch("dictpfl.client.institution.open_institution", opening),
    ):
        os.environ.pop("DICTPFL_INSTITUTIONS", None)
        cloudpickle.loads(sent)(request, context)
    return opened[0]


def test_what_cannot_be_an_app_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "mine.toml"
    source.write_text(as_toml())
    with pytest.raises(ConfigError, match="stock Flower does not tell it"):
        write_federation(
            encrypted(federation__sample=3, federation__participants=4), tmp_path / "app", source=source, publisher="me"
        )
    with pytest.raises(DataError):
        write_federation(encrypted(data__limit=3), tmp_path / "app", source=source, publisher="me")
    assert not (tmp_path / "app").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="missing or empty folder"):
        write_federation(encrypted(), tmp_path / "full", source=source, publisher="me")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


def test_what_fails_once_the_parties_are_there_leaves_nothing_either(tmp_path: Path) -> None:
    """A full disk left the package's own `pyproject.toml`, with which half an app runs."""
    with pytest.raises(FileNotFoundError):
        write_federation(encrypted(), tmp_path / "app", source=tmp_path / "gone.toml", publisher="me")
    assert not (tmp_path / "app").exists()


def test_a_model_of_any_name_is_described_in_what_flower_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(as_toml())
    config = encrypted()
    source = 'timm:C:\\users\\"vit"'
    named = config.model_copy(update={"model": config.model.model_copy(update={"source": source})})

    def made(_config: object, folder: Path) -> SimpleNamespace:
        folder.mkdir()
        return SimpleNamespace(genesis=SimpleNamespace(config=named), coordinator=folder, institutions=folder)

    monkeypatch.setattr("dictpfl.deploy.simulation.founding.found", made)
    app = write_federation(named, tmp_path / "app", source=tmp_path / "mine.toml", publisher="me")
    description = tomllib.loads((app / "pyproject.toml").read_text())["project"]["description"]
    assert description.startswith(f"Federated fine-tuning of {source} on encrypted updates")


def test_only_modules_of_the_folder_travel(tmp_path: Path) -> None:
    (tmp_path / "nets.py").touch()
    config = encrypted(model__source="nets:net", data__source="sklearn.datasets:load_digits", model__options={})
    assert list(own_modules(config, tmp_path)) == [tmp_path / "nets.py"]


def test_packages_and_names_of_any_alphabet_travel(tmp_path: Path) -> None:
    files = [
        tmp_path / name
        for name in ("modèle.py", "ward/__init__.py", "ward/nets/wide.py", "timm/x.py", "ward/notes.txt")
    ]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    config = encrypted(
        model__source="ward.nets.wide:net",
        training__task="modèle:tâche",
        data__options={"f": "timm:x"},
        model__options={},
    )
    assert set(own_modules(config, tmp_path)) == set(files[:3])


def test_the_readme_names_what_was_set(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(as_toml())
    sets = ["--set", "federation.rounds=2", "--set", "name=a b"]
    words = ["app", "write", str(tmp_path / "app"), "--config", str(tmp_path / "mine.toml"), *sets]
    done = CliRunner().invoke(commands_of_all, words)
    assert done.exit_code == 0, done.output
    readme = (tmp_path / "app" / "README.md").read_text()
    assert "digest is that of `dictpfl simulate mine.toml --set federation.rounds=2 --set 'name=a b'`" in readme
