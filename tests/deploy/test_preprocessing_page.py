"""docs/how-to/your-data.md on columns: its recipe makes a federation of tables, and its pipeline means what the table says."""

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

PAGE = (ROOT / "docs" / "how-to" / "your-data.md").read_text(encoding="utf-8")
TABLES = """\
python - <<'END'
from pathlib import Path
import numpy as np
import pandas as pd

draw = np.random.default_rng(1)
Path("sites").mkdir()
for number, site in enumerate(("north", "south", "west")):
    age = draw.normal(45 + 10 * number, 12, 200)
    dose = draw.lognormal(5, 0.6, 200)
    sex = draw.choice(["f", "m"], 200)
    ill = (age / 12 + np.log(dose) + 2 * (sex == "f") + draw.normal(0, 1, 200) > 10.5).astype(int)
    rows = pd.DataFrame({"patient": range(200), "age": age, "dose": dose, "sex": sex, "ward": draw.choice(["a", "b", "c"], 200), "ill": ill})
    rows.loc[draw.random(200) < 0.1, "dose"] = np.nan
    rows.to_csv(f"sites/{site}.csv", index=False)
END

cat > tables.toml <<'END'
name = "tables"

[federation]
rounds = 12
participants = 3

[data]
source = "csv"
path = "sites/*.csv"
label = "ill"
exclude = ["patient"]

RECIPE
[model]
source = "mlp"
options = { hidden = [32] }

[training]
learning_rate = 1e-2
END

dictpfl describe tables.toml
dictpfl simulate tables.toml --engine local
"""


@pytest.mark.slow
def test_the_recipe_runs_as_typed(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"```toml\n(\[data\.preprocessing\]\n.*?)```", PAGE, re.DOTALL)
    block = TABLES.replace("RECIPE\n", recipe + "\n")
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
    (python,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "def steps" in block)
    names: dict[str, object] = {}
    exec(compile(python, "your-data.md", "exec"), names)  # noqa: S102 -- our own page
    said = recipes_of(names["steps"]())  # type: ignore[operator]
    assert said.columns == {
        "age": Recipe(impute="mean", scale="standard"),
        "dose": Recipe(impute="median", scale="robust"),
    }
    assert (said.categories, said.least) == ({"sex": ["f", "m"], "ward": ["a", "b", "c"]}, 10)
