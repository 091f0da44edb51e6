"""docs/how-to/preprocessing.md: its block runs as typed in an empty folder, and its pipeline means what the table says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dictpfl.client.data.pipelines import recipes_of
from dictpfl.common.genesis import Genesis
from dictpfl.common.settings import Recipe
from tests.support import ROOT, forking

PAGE = (ROOT / "docs" / "how-to" / "preprocessing.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_block_runs_as_typed(tmp_path: Path) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    programs = os.pathsep.join([forking.programs(), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-eu"], input=block, cwd=tmp_path, text=True, capture_output=True, check=False,
        env=os.environ | {"PATH": programs},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "a round each for columns, quantiles, sealed" in done.stdout
    run = tmp_path / "runs" / "tables-dictpfl"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["encrypted"]
    assert summary["test"] > 0.6
    genesis = Genesis.load(run / "institutions" / "institution-000")
    assert genesis.features == ("age", "dose", "sex", "ward")
    assert genesis.sample_shape == (2 + 3 + 17,)


def test_the_pipeline_means_what_the_page_says() -> None:
    (python,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(python, "preprocessing.md", "exec"), names)  # noqa: S102 -- our own page
    said = recipes_of(names["steps"]())  # type: ignore[operator]
    assert said.columns == {
        "age": Recipe(impute="mean", scale="standard"),
        "dose": Recipe(impute="median", scale="robust"),
    }
    assert (said.categories, said.least) == ({"sex": ["f", "m"], "ward": ["a", "b", "c"]}, 10)
