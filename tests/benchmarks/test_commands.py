"""Every benchmark that a page names starts by its path, from whatever folder, beside Opacus' stray `benchmarks` package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path for folder in ("benchmarks", "benchmarks/privacy") for path in (ROOT / folder).glob("*.py") if "__main__" in path.read_text()
)  # fmt: skip
GONE = {"benchmarks/fast_path.py"}
"""Named by docs/performance.md, as what made figures that were measured once."""
STARTED = """
import json, os, runpy, sys

ended = {}
for script in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lib"]:
        del sys.modules[name]
    sys.path[0], sys.argv = os.path.dirname(script), [script, "--check" if script.endswith("render.py") else "--help"]
    before = list(sys.path)
    try:
        runpy.run_path(script, run_name="__main__")
        ended[script] = 0
    except SystemExit as error:
        ended[script] = error.code or 0
    sys.path[:] = before
json.dump(ended, sys.stderr)
"""


def test_every_benchmark_starts_from_another_folder(tmp_path: Path) -> None:
    """One process for all of them, which sets its path as Python does for a script: torch takes seconds to load."""
    (tmp_path / "started.py").write_text(STARTED)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "started.py"), *map(str, SCRIPTS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stderr.splitlines()[-1])
    assert ended == dict.fromkeys(map(str, SCRIPTS), 0)
    assert done.stdout.lower().count("usage: ") == len(SCRIPTS) - 1  # all but render.py, which checks


def test_a_script_starts_without_help_of_this_test(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "render.py"), "--check"], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "page", ["README.md", "Makefile", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
)
def test_benchmarks_that_a_page_names_are_there(page: str) -> None:
    named = set(re.findall(r"python (benchmarks/[\w/]+\.py)", (ROOT / page).read_text(encoding="utf-8")))
    assert named - GONE <= {str(script.relative_to(ROOT)) for script in SCRIPTS}


def test_all_that_is_measured_is_measured_by_make_bench_full() -> None:
    """But what its comment names."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = text.partition("\nbench-full:")[2].partition("\n\n")[0]
    by_hand = {"benchmarks/real_sizes.py", "benchmarks/loading.py"}
    assert all(Path(name).name in text for name in by_hand)
    named = set(re.findall(r"python (benchmarks/[\w/]+\.py)", recipe))
    assert named == {str(script.relative_to(ROOT)) for script in SCRIPTS} - by_hand


def test_what_masks_cost_is_measured(tmp_path: Path) -> None:
    """It plays the round's classes itself, so that no type says when one of them wants another question."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "defences.py"), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode in (0, 1), done.stderr) == (True, ""), "1: a busy machine misses its bound"
    assert [line.split("(")[0] for line in done.stdout.splitlines()[:2]] == ["| 3 ", "| 10 "]


def test_a_measurement_runs_in_a_process_of_its_own() -> None:
    from scale import cell

    assert cell("institution", values=1000, participants=3)["bytes_up"] > 1_500
