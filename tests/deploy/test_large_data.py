"""docs/how-to/large-data.md: each block runs as typed in an empty folder, and the model learns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dictpfl.deploy.doctor import deployment_checks
from dictpfl.deploy.runs.run import SUMMARY
from tests.support import ROOT, forking

PAGE = (ROOT / "docs" / "how-to" / "large-data.md").read_text(encoding="utf-8")
BLOCKS = {
    re.search(r"dictpfl simulate (\w+)\.toml", block)[1]: block  # type: ignore[index]
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
}
LEAST = {"scans": 0.4, "mine": 0.4, "patients": 0.7}


def typed(block: str, folder: Path) -> None:
    programs = os.pathsep.join([forking.programs(), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-eu"], input=block, cwd=folder, text=True, capture_output=True, check=False,
        env=os.environ | {"PATH": programs},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LEAST))
def test_a_block_runs_as_typed_and_the_model_learns(name: str, tmp_path: Path) -> None:
    if name == "patients":
        pytest.importorskip("datasets")
    typed(BLOCKS[name], tmp_path)
    run = tmp_path / "runs" / f"{name}-dictpfl"
    summary = json.loads((run / SUMMARY).read_text())
    assert summary["encrypted"]
    assert summary["test"] > LEAST[name]
    with np.load(run / "institutions" / "institution-000" / "train.npz") as file:
        assert set(file) == {"numbers", "labels", "about"}, "an index, not a copy"
    if name != "scans":
        return
    (prepare,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    typed(prepare, tmp_path)
    home = run / "institutions" / "institution-000"
    assert [
        (check.ok, "a few were" in check.found) for check in deployment_checks(home) if check.name == "samples"
    ] == [(True, True)] * 2
    next((tmp_path / "scans" / "north").rglob("*.png")).unlink()
    assert [check.ok for check in deployment_checks(home) if check.name == "samples"] == [False] * 2


def test_every_block_is_tried() -> None:
    assert set(BLOCKS) == set(LEAST)
