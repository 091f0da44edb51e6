"""Data that are read by the batch (docs/how-to/your-data.md): scans, a Dataset of one's own, an Arrow folder; the model learns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dictpfl.deploy.operations.checks import deployment_checks
from dictpfl.deploy.runs.run import SUMMARY
from tests.support import ROOT, forking

PAGE = (ROOT / "docs" / "how-to" / "your-data.md").read_text(encoding="utf-8")
DATASET = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Scans" in block)
"""The page's Dataset of one's own."""
BLOCKS = {
    "scans": """\
python - <<'END'
from pathlib import Path
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

for number, (pixels, digit) in enumerate(zip(*load_digits(return_X_y=True))):
    folder = Path("scans", ("north", "south", "west")[number % 3], str(digit))
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((1000 + pixels.reshape(8, 8) * 200).astype(np.uint16)).save(folder / f"{number}.png")
END

cat > scans.toml <<'END'
name = "scans"

[federation]
rounds = 4

[data]
source = "imagefolder"
path = "scans"
partition = "column"          # a folder for each site
lazy = true
options = { sites = true, size = 8, mode = "I;16", window = [1000, 4200] }

[training]
workers = 2
epochs = 2
learning_rate = 1e-2
END

dictpfl simulate scans.toml --engine local
""",
    "mine": f"""\
cat > mine.py <<'END'
{DATASET}END

cat > mine.toml <<'END'
name = "mine"

[federation]
rounds = 4

[data]
source = "mine:Scans"         # anything that returns one; data.options are its arguments

[training]
workers = 2
epochs = 2
learning_rate = 1e-2
END

dictpfl simulate mine.toml --engine local
""",
    "patients": """\
python - <<'END'
from datasets import Dataset
from sklearn.datasets import load_breast_cancer

table = load_breast_cancer(as_frame=True).frame
table = (table - table.mean()) / table.std()  # a published table, so these constants are public
table["target"] = load_breast_cancer().target
Dataset.from_pandas(table, preserve_index=False).save_to_disk("patients")
END

cat > patients.toml <<'END'
name = "patients"

[federation]
rounds = 4

[data]
source = "datasets"
path = "patients"
label = "target"
lazy = true

[training]
epochs = 2
learning_rate = 1e-2
END

dictpfl simulate patients.toml --engine local
""",
}
PREPARE = "dictpfl data prepare scans/north --folder institution --config scans.toml"
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
    typed(PREPARE, tmp_path)
    home = run / "institutions" / "institution-000"
    assert [
        (check.ok, "a few were" in check.found) for check in deployment_checks(home) if check.name == "samples"
    ] == [(True, True)] * 2
    next((tmp_path / "scans" / "north").rglob("*.png")).unlink()
    assert [check.ok for check in deployment_checks(home) if check.name == "samples"] == [False] * 2
