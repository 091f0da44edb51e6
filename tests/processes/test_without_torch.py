"""A coordinator that was installed without torch, scikit-learn, pandas and plots serves institutions that have them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.machines import config, deployed
from tools import wheels

pytestmark = pytest.mark.deployment


def test_a_coordinator_without_torch_runs_a_federation(tmp_path: Path) -> None:
    (wheel,) = wheels.build(wheels.ROOT, tmp_path, "wheel")
    python = wheels.environment(tmp_path / "without-torch", wheel)
    absent = (
        "from importlib.util import find_spec; print(find_spec('torch'), find_spec('sklearn'), find_spec('pandas'))"
    )
    said = subprocess.run([python, "-c", absent], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["None"] * 3

    with deployed(tmp_path, config(federation__rounds=2)) as deployment:
        deployment.python = python
        deployment.start()
        run = deployment.run()
        assert run.wait(240) == 0, run.text
        programs = [_command(pid) for pid in deployment.processes(deployment.coordinator).values()]
        assert programs
        assert all(command[0] == str(python) for command in programs)
        assert all(count == 3 for count in deployment.sums().values())
        assert len(deployment.sums()) >= 2
        assert len(set(deployment.digests())) == 1

        for arguments, says in (
            (("status",), "2 of 2 update rounds"),
            (("health",), "superlink"),
            (("doctor",), "only its owner reads it"),
        ):
            done = _called(python, *arguments, "--folder", str(deployment.coordinator))
            assert done.returncode == 0, done.stderr
            assert says in done.stdout
        written = _called(python, "report", "--privacy", str(deployment.coordinator))
        assert written.returncode == 0, written.stderr
        assert (deployment.coordinator / "privacy.html").exists()


def _called(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [python.with_name("dictpfl"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
