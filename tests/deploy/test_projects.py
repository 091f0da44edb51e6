"""`dictpfl new`, as typed in an empty folder: what it writes runs, its own test passes, and nothing is overwritten."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dictpfl.deploy.runs.run import Run
from tests.support.forking import ran

pytestmark = pytest.mark.slow


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


def typed(words: str, cwd: Path) -> tuple[int, str]:
    done = ran(shlex.split(words), cwd, env=environment(), timeout=500)
    return done.returncode, done.stdout + done.stderr


def checked(words: str, cwd: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", *shlex.split(words)]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=500, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_new_project_runs_and_its_test_passes(tmp_path: Path) -> None:
    code, said = typed("new ward-7", tmp_path)
    assert code == 0, said
    project = tmp_path / "ward-7"
    assert "data.py, federation.toml, model.py, task.py, test_federation.py" in said
    assert not any("@NAME@" in path.read_text() for path in project.iterdir())
    code, said = typed("simulate federation.toml --engine local", project)
    assert code == 0, said
    run = Run.load(project / "runs" / "ward-7-dictpfl")
    assert run.summary["encrypted"]
    assert run.accuracy > 0.7, "62.7 % is the share of the most frequent class"
    code, said = checked("-q -p no:cacheprovider", project)
    assert code == 0, said
    assert "2 passed" in said
    # The test can fail: labels of chance are learnt by nobody.
    data = project / "data.py"
    drawn = data.read_text().replace(
        "found.target.astype(np.int64)", "np.random.default_rng(0).permutation(found.target)"
    )
    data.write_text(drawn)
    code, said = checked("-q -p no:cacheprovider -k better", project)
    assert code == 1, said
    assert np.isfinite(run.accuracy)


def test_the_test_stands_without_a_task_of_ones_own(tmp_path: Path) -> None:
    """The README says that task.py may be deleted; the test imported it."""
    assert typed("new ward", tmp_path)[0] == 0
    (tmp_path / "ward" / "task.py").unlink()
    code, said = checked("-q -p no:cacheprovider -k takes", tmp_path / "ward")
    assert code == 0, said
    assert "1 skipped" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("new taken", "exists and is not overwritten"),
        ("new 7", "cannot name a project"),
        ("new no/where", "expected a folder no"),
    ],
)
def test_what_cannot_be_made_is_refused(words: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    code, said = typed(words, tmp_path)
    assert code == 1
    assert expected in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
