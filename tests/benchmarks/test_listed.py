"""Studies that take hours list their cells, as typed, from any folder and without data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTED = {
    "hierarchy": (40, "hierarchy/with-atoms/seed-0 there"),
    "minitron": (215, "minitron/heads-one-institution/seed-5 "),
    "minitron_search": (15, "minitron_search/depth-alone/seed-1 "),
    "narrow_language": (39, "narrow_language/lasso-2e-3/seed-1 "),
    "narrow_newsgroups": (18, "narrow_newsgroups/gates-federated/seed-3 "),
}


@pytest.mark.parametrize("name", LISTED)
def test_cells_are_listed(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / f"{name}.py"), "--list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, line = LISTED[name]
    lines = done.stdout.splitlines()
    assert len(set(lines)) == count
    assert all(one.endswith((" there", " missing")) for one in lines)
    assert any(one.startswith(line) for one in lines)
