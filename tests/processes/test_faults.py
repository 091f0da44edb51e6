"""`tools/faults.py`, as it is typed: faults drawn from a seed, and equal digests afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.client.memory.record import Memory
from tests.support import ROOT
from tests.support.faults.ground import Ground
from tests.support.faults.schedule import KINDS
from tests.support.faults.whole import play

pytestmark = [pytest.mark.deployment, pytest.mark.nightly]


def faults(*arguments: object, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/faults.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=seconds,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_line_and_a_supervisor_and_digests_as_if_nothing_had_been(tmp_path: Path) -> None:
    kinds = ["institution killed", "line cut"]
    out = tmp_path / "seed-1.json"
    done = faults("--seed", 1, "--rounds", 3, "--institutions", 3, "--only", ",".join(kinds), "--out", out, seconds=600)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    assert told["wrong"] == []
    assert {row["kind"] for row in told["rows"]} == set(kinds)
    assert all(row["said"] for row in told["rows"])
    assert set(told["disturbed"]["digests"].values()) == set(told["undisturbed"]["digests"].values())


def twice(ground: Ground) -> None:
    """The defect that all this is there to find: an institution holds what it has after applying a round once more."""
    name = ground.founders[1]
    record = ground.record(name)
    before = ground.keyring(name).start().values
    shared = replace(record.shared, values=2 * record.shared.values - before, updates=record.shared.updates + 1)
    Memory(ground.home(name) / "memory", ground.agreed.uploads.federation).store(replace(record, shared=shared))


def test_a_round_that_is_applied_twice_is_found(tmp_path: Path) -> None:
    report = play(2, 1, 3, tmp_path / "ground", ["line slow"], lambda _: None, sabotage=twice)
    assert any("kyoto holds" in wrong for wrong in report.wrong)
    assert any("2 updates in 2 rounds" in wrong for wrong in report.wrong)
    assert any("replayed from the sums" in wrong for wrong in report.wrong)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_fault_of_a_seed(seed: int, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = faults("--seed", seed, "--rounds", 24, "--institutions", 4, "--out", out, seconds=5400)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert {row["kind"] for row in json.loads(out.read_text())["rows"]} == set(KINDS)
