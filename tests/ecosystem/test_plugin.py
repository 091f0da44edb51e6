"""A package of somebody else's, installed by pip, adds a part of each kind by name; the how-to page shows the same files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.forking import ran

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).parent / "plugin"
PAGE = ROOT / "docs" / "how-to" / "extend.md"
CONFIG = """
name = "rings"

[federation]
rounds = 3

[data]
source = "rings"
options = { count = 240 }

[model]
source = "pairing"
options = { width = 16 }

[decomposition]
layers = ["bilinear"]
rank = 3
allocator = "energy"

[pruning]
tau = 1
schedule = "gentle"

[scores]
decision = "rest-least"
measure = "magnitude"

[tallies]
opening = ["norms"]
options = { norms = { most = 6 } }

[training]
epochs = 3
task = "smooth"
metric = "top-two"
learning_rate = 1e-2
threads = 1
"""


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(folder), str(PLUGIN)], check=True, capture_output=True, text=True)
    return folder


def typed(installed: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command as a user types it, in an empty folder, with the package installed."""
    return ran(words, folder, env={**os.environ, "PYTHONPATH": str(installed)})


@pytest.mark.slow
def test_each_door_shows_what_the_package_brings(installed: Path, tmp_path: Path) -> None:
    points = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    done = typed(installed, tmp_path, "doctor", "--plugins")
    assert done.returncode == 0, done.stdout + done.stderr
    for group in points.values():
        for name in group:
            assert re.search(rf"{name} +dictpfl-plugin 1\.0 ", done.stdout), name
    assert "temporary files" in typed(installed, tmp_path, "doctor").stdout


@pytest.mark.slow
def test_the_package_s_parts_make_a_federation(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "rings.toml").write_text(CONFIG, encoding="utf-8")
    done = typed(installed, tmp_path, "simulate", "rings.toml", "--engine", "local", "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert summary["metric"] == "top-two accuracy"
    assert summary["dataset"] == "rings"
    assert summary["encrypted"]
    assert [record["kind"] for record in history] == ["score", "score", "update", "update", "update", "measure"]
    scored, tallied, first, second, third, _ = history
    assert scored["sent"] == summary["values"]["shared"]
    assert tallied["sent"] == 2 + 2, "an entry an input, samples, and clipped samples"
    assert first["sent"] < scored["sent"], "the decision put half of the tables to rest before the first update"
    assert summary["values"]["shared"] < summary["values"]["model"]
    assert second["sent"] > third["sent"], "the schedule prunes more once two updates are made"
    printed = typed(installed, tmp_path, "sent", "run")
    assert printed.stdout.splitlines() == [f"{record['kind']} {record.get('sent', 0)}" for record in history]
    assert "sent" in typed(installed, tmp_path, "--help").stdout
    exported = typed(installed, tmp_path, "export", "run", "--format", "npz", "-o", "model.npz")
    assert "6 arrays after 3 updates" in exported.stdout, exported.stdout + exported.stderr
    with np.load(tmp_path / "model.npz") as arrays:
        assert arrays["pair.weight"].shape == (16, 16, 16), "its own layer type, merged"


@pytest.mark.slow
def test_the_package_s_attack_reads_labels_of_plaintext(installed: Path, tmp_path: Path) -> None:
    options = ["--methods", "plaintext", "--attacks", "head-bias", "--parts", "none", "--victims", "3", "--out", "out"]
    fewer = [word for pair in ("data.limit=200", "federation.rounds=1") for word in ("--set", pair)]
    done = typed(installed, tmp_path, "attack", ROOT / "experiments" / "privacy_digits.toml", *options, *fewer)
    assert done.returncode == 0, done.stdout + done.stderr
    (finding,) = json.loads((tmp_path / "out" / "privacy.json").read_text(encoding="utf-8"))["findings"]
    assert (finding["attack"], finding["family"], finding["found"]["value"]) == ("head's bias", "labels", 1.0)
    assert finding["blind"]["value"] < 0.9


def test_without_the_package_its_names_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "rings.toml").write_text(CONFIG, encoding="utf-8")
    done = typed(tmp_path, tmp_path, "simulate", "rings.toml", "--engine", "local", "--out", "run")
    assert done.returncode == 1
    assert "'rings' is unknown; known:" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_the_page_shows_these_files() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for path in sorted((PLUGIN / "src" / "dictpfl_plugin").glob("[a-z]*.py")):
        assert f"```python\n{path.read_text(encoding='utf-8')}```" in page, f"{path.name} differs from {PAGE.name}"
    assert f"```toml\n{(PLUGIN / 'pyproject.toml').read_text(encoding='utf-8')}```" in page
