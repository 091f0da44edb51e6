"""The release before this one, from its commit: each party of its federation is told the one thing to do, and no file changes.

Another protocol cannot be gone on with, so nothing is migrated; what an operator types after the upgrade is typed here, on folders
that the old release wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dictpfl.common.messages.protocol import FOUND_ANEW
from tests.support import ROOT
from tests.support.forking import ran

BEFORE = "0182c0faf618ab41868672b12e74bb29e3c04e12"
"""Commit of 0.1.0, the last of protocol 3."""
CONFIG = """
name = "old"
[federation]
rounds = 2
participants = 3
[data]
source = "digits"
limit = 120
[model]
source = "mlp"
options = { hidden = [4] }
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old release, as its users had it."""
    found = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"NOT TESTED: the history of this checkout does not reach back to {BEFORE[:12]}")
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(fileobj=BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def run(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a federation of the old release left: its coordinator's folder, its institutions', and its figures."""
    folder = tmp_path_factory.mktemp("parties")
    (folder / "old.toml").write_text(CONFIG, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "deploy.cli", "simulate", "old.toml", "--engine", "local"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(release)}, capture_output=True, check=True, timeout=300,
    )  # fmt: skip
    return folder / "runs" / "old-dictpfl"


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def typed(folder: Path, *arguments: str | Path) -> tuple[int, str]:
    """Exit status of the installed command, and all that it says on one line."""
    done = ran(arguments, folder, timeout=300)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "institution up --folder INSTITUTION",
        "institution unlock --folder INSTITUTION --yes",
        "status --folder INSTITUTION",
        "export INSTITUTION -o model.safetensors",
        "coordinator up --folder COORDINATOR",
        "status --folder COORDINATOR",
        "run --folder COORDINATOR --rounds 3",
        "simulate RUN --resume",
        "report RUN -o report.html",
        "evaluate RUN",
    ],
)
def test_each_party_is_told_the_one_thing_to_do_and_nothing_changes(command: str, run: Path, tmp_path: Path) -> None:
    before = hashes(run)
    folders = {"INSTITUTION": run / "sites" / "institution-000", "COORDINATOR": run / "coordinator", "RUN": run}
    status, said = typed(tmp_path, *(folders.get(word, word) for word in command.split()))
    assert status == 1, said
    assert FOUND_ANEW in said
    assert "Traceback" not in said
    assert hashes(run) == before


@pytest.mark.slow
def test_its_figures_are_read(run: Path, tmp_path: Path) -> None:
    status, said = typed(tmp_path, "inspect", run)
    assert status == 0, said
    assert json.loads((run / "summary.json").read_bytes())["model_sha256"][:16] in said


@pytest.mark.slow
def test_its_model_is_exported_by_either_release(run: Path, tmp_path: Path) -> None:
    status, said = typed(tmp_path, "export", run, "-o", "model.safetensors")
    assert status == 0, said
    assert hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest() in said
    old, new = load_file(run / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[name], new[name]) for name in old)


@pytest.mark.slow
def test_its_model_begins_the_new_federation(run: Path, tmp_path: Path) -> None:
    """As the page on moving says of a simulation: the new federation measures first what the old one ended with."""
    weights = f'source = "mlp"\nweights = "{run / "model.safetensors"}"'
    (tmp_path / "new.toml").write_text(CONFIG.replace('source = "mlp"', weights), encoding="utf-8")
    status, said = typed(tmp_path, "simulate", "new.toml", "--engine", "local")
    assert status == 0, said
    lines = (tmp_path / "runs" / "old-dictpfl" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    first, last = json.loads(lines[0]), json.loads((run / "history.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert last["kind"] == "measure"
    assert first["validation_loss"] == pytest.approx(last["validation_loss"], rel=1e-4)
