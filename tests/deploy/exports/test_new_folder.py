"""Whatever writes a folder leaves none where the disk is full: half a model stood in the next try's way, and looked like one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.cli import app
from dictpfl.deploy.exports.exporter import new_folder, refuse_full
from dictpfl.deploy.runs.run import Run
from dictpfl.deploy.simulation.simulate import simulate
from tests.support.federations import tiny

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny(data__limit=120, federation__rounds=1)
    return simulate(config, tmp_path_factory.mktemp("new-folder") / "run", engine="local")


@pytest.mark.parametrize(
    "words",
    [
        ("export", "RUN", "--format", "merged"),
        ("export", "RUN", "--format", "peft"),
        ("personalise", "RUN/institutions/institution-000", "--epochs", "1"),
        ("prune", "RUN/institutions/institution-000", "--sparsity", "0.5", "--device", "cpu"),
    ],
    ids=" ".join,
)
def test_full_disk_leaves_no_folder_and_the_next_try_succeeds(
    run: Run, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    command = [*(word.replace("RUN", str(run.folder)) for word in words), "-o", str(output)]
    write_text = Path.write_text

    def full(path: Path, *args: Any, **rest: Any) -> int:
        if path.name == "README.md":  # the card, which comes after the weights
            assert any(output.glob("*.safetensors")), "nothing was written before"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_text(path, *args, **rest)

    monkeypatch.setattr(Path, "write_text", full)
    failed = CliRunner().invoke(app, command)
    assert failed.exit_code == 1
    assert isinstance(failed.exception, OSError)
    assert not output.exists()
    monkeypatch.undo()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (output / "README.md").exists()


def test_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    told = "holds something; name a new folder with --output, or remove what a command that was killed left there"
    with pytest.raises(ConfigError, match=told), new_folder(tmp_path):
        pytest.fail("it was opened")
    assert (tmp_path / "mine").read_text() == "x"


def test_private_folder_is_its_owners_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a", private=True):
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_folder_that_is_named_as_a_file_is_refused(tmp_path: Path) -> None:
    """`narrow -o model.safetensors ...` made a folder of that name."""
    with pytest.raises(ConfigError, match=r"such as model$"), new_folder(tmp_path / "model.safetensors"):
        pytest.fail("it was opened")
    assert not any(tmp_path.iterdir())


def test_place_where_no_folder_can_be_made_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cut`, `distil` and `audit layers` found out when all was computed."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is no folder, or may not be written"):
        refuse_full(tmp_path / "file" / "small")
    refuse_full(tmp_path / "new" / "small")
    monkeypatch.chdir(tmp_path)
    refuse_full(Path("small"))
    monkeypatch.setattr(os, "access", lambda place, _mode: place != tmp_path)
    with pytest.raises(ConfigError, match="may not be written by you"):
        refuse_full(tmp_path / "new" / "small")
