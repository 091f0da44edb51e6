"""docs/how-to/tasks-and-metrics.md: each block runs as typed in an empty folder, encrypted, and its model is above its baseline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dictpfl.client.training.metric import METRICS
from dictpfl.client.training.task import TASKS
from tests.support import ROOT, forking

PAGE = (ROOT / "docs" / "how-to" / "tasks-and-metrics.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
RECIPES = next(block for block in BLOCKS if "recipes.py" in block)
BY_NAME = {found[1]: block for block in BLOCKS if (found := re.search(r"dictpfl simulate (\w+)\.toml", block))}


def typed(block: str, folder: Path) -> str:
    programs = os.pathsep.join([forking.programs(), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-eu"], input=block, cwd=folder, text=True, capture_output=True, check=False,
        env=os.environ | {"PATH": programs},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def summary(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs" / name / "summary.json").read_text())
    assert found["encrypted"]
    return found


def test_the_page_begins_with_a_command_and_names_every_part() -> None:
    assert PAGE.splitlines()[2] == "```bash"
    for name in (*METRICS.own(), *TASKS.own()):
        assert f"`{name}`" in PAGE or name == "concordance", name


@pytest.mark.slow
def test_the_first_block(tmp_path: Path) -> None:
    said = typed(BY_NAME["tumours"], tmp_path)
    found = summary(tmp_path, "tumours")
    assert found["baseline"]["passed"]
    assert found["metrics"]["validation"]["auroc"]["auroc"] > 0.9
    assert "test calibration" in said
    assert "validation auroc" in said
    assert "warning" not in said
    last = json.loads((tmp_path / "runs" / "tumours" / "history.jsonl").read_text().splitlines()[-1])
    assert last["validation_metrics"]["auroc"] == found["metrics"]["validation"]["auroc"]["auroc"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "metric", "margin"),
    [("labels", "confusion", 0.15), ("grades", "kappa", -0.15), ("ink", "auroc", 0.03), ("words", "confusion", 0.01),
     ("progress", "r2", -0.08), ("letters", "perplexity", 0.03), ("vowels", "perplexity", 0.04), ("halves", "", 0.1)],
)  # fmt: skip
def test_a_recipe(name: str, metric: str, margin: float, tmp_path: Path) -> None:
    """Margins are less than half of what was reached, whichever way the metric points."""
    if name == "vowels":
        pytest.importorskip("transformers")
    typed(RECIPES + BY_NAME[name], tmp_path)
    found = summary(tmp_path, name)
    assert found["baseline"]["passed"]
    above = found["test"] - found["baseline"]["figure"]
    assert above / margin > 1, (found["test"], found["baseline"])
    assert not metric or found["metrics"]["validation"][metric]
