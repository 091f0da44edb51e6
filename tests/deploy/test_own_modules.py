"""The page on a model of one's own, as typed: in a folder with modules of the user's own, some named as rooms of ours are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dictpfl.common.errors import ConfigError
from dictpfl.deploy.own_modules import use_working_directory
from tools import wheels

(PAGE,) = (wheels.ROOT / "docs").rglob("your-model.md")
FIRST = """\
import sys

frame = sys._getframe(1)
while frame is not None and frame.f_globals.get("__name__", "").startswith("importlib"):
    frame = frame.f_back
if frame is None or frame.f_globals.get("__name__") not in ("shop", "quarters"):
    raise RuntimeError(f"{__name__} is the user's, and {frame and frame.f_globals.get('__name__')} imported it")
width = 16
"""
"""A user's `common.py`, `client.py` and `server.py`: they let the user's own modules import them, and nobody else."""
SHORT = ("--set", "federation.rounds=1", "--set", "training.epochs=1", "--set", "data.options.count=120")


@pytest.fixture(scope="module", params=[pytest.param("wheel", marks=pytest.mark.nightly), "wheel:editable"])
def scripts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `dictpfl` in an environment with what a simulation needs."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = wheels.build(wheels.ROOT, folder, request.param)
    return wheels.environment(folder / "venv", wheel, "simulation").parent


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with the page's files; the model takes its width from the user's `common`."""
    text = PAGE.read_text(encoding="utf-8")
    (model, data), (config,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("python", "toml"))
    model = f"import client, server\nfrom common import width as usual\n{model.replace('width: int = 16', 'width: int = usual')}"
    assert "usual)" in model
    for name in ("common", "client", "server"):
        (tmp_path / f"{name}.py").write_text(FIRST, encoding="utf-8")
    (tmp_path / "queue.py").write_text("raise RuntimeError('a module of the user hides one of Python')\n")
    for name, content in (("shop.py", model), ("quarters.py", data), ("shop.toml", config)):
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def typed(scripts: Path, folder: Path, line: str) -> str:
    """Run a line in a shell, as somebody who activated the environment would."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{scripts}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_working_directory_comes_last_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    use_working_directory()
    use_working_directory()
    assert sys.path == [*before, str(tmp_path)]


@pytest.mark.slow
def test_commands_find_a_users_modules_and_not_in_place_of_others(scripts: Path, shop: Path) -> None:
    (line,) = re.findall(r"^(?: {4})?(dictpfl simulate shop\.toml.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    local = " ".join([line.replace(" --engine local", ""), "--engine local", *SHORT])
    assert "report.html" in typed(scripts, shop, local)
    assert "samples" in typed(scripts, shop, "dictpfl evaluate runs/shop-dictpfl")
    institution = "runs/shop-dictpfl/institutions/institution-000"
    assert "merged model" in typed(scripts, shop, f"dictpfl export {institution} --format merged -o merged")
    assert "values trained" in typed(scripts, shop, f"dictpfl personalise {institution} -o own --epochs 1")


@pytest.mark.nightly
@pytest.mark.parametrize("scripts", ["wheel"], indirect=True)  # the engine's other tests run from an editable one
def test_workers_of_the_flower_engine_find_them_too(scripts: Path, shop: Path) -> None:
    typed(scripts, shop, " ".join(["dictpfl simulate shop.toml --out run", *SHORT]))
    assert (shop / "run" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compare", "attack"])
def test_each_command_that_loads_them_does(scripts: Path, shop: Path, command: str) -> None:
    """An option that the user's function does not take is refused by its name, so the function was loaded."""
    plain = "--set training.optimizer=sgd --set training.epochs=1 --set training.steps=1"  # as attacks want it
    said = typed(scripts, shop, f"dictpfl {command} shop.toml --set data.options.nonsense=1 {plain} 2>&1 || true")
    assert "nonsense" in said
    assert "it takes" in said


def test_a_working_directory_that_was_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`report` said "No such file or directory", of no file."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the working directory is not there any more; change to"):
        use_working_directory()
