"""The systemd units: understood by systemd, hardened, and calling commands that exist."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dictpfl.deploy.operations import health
from dictpfl.deploy.operations.certificates import try_out
from tests.support import ROOT
from tests.support.called import require_command, require_process_test

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
NAMES = [path.name for path in UNITS]
COORDINATOR, FAILED, INSTITUTION, RUN = (
    ROOT / "deploy" / "systemd" / f"dictpfl-{name}.service"
    for name in ("coordinator", "failed@", "institution@", "run")
)
PARTIES = (COORDINATOR, INSTITUTION, RUN)
WORST = 1.5
"""Exposure out of 10 that `systemd-analyze security` may find; what is left is the network, which they need."""
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed (apt-get install systemd)")


def settings(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_there_are_units() -> None:
    assert NAMES == [
        "dictpfl-coordinator.service", "dictpfl-failed@.service", "dictpfl-institution@.service", "dictpfl-run.service"
    ]  # fmt: skip
    assert [path.name for path in (COORDINATOR, FAILED, INSTITUTION, RUN)] == NAMES


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=NAMES)
def test_systemd_understands_every_line(path: Path, tmp_path: Path) -> None:
    # A program that is there stands in for /opt/dictpfl, which is not; everything else is as it is.
    unit = tmp_path / path.name
    unit.write_text(path.read_text().replace("/opt/dictpfl/bin/dictpfl", "/bin/true"))
    command = [str(ANALYZE), "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    unit.write_text(unit.read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "NoNewPrivilege" in done.stderr, "a slip of the pen would be found"


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=NAMES)
def test_exposure_is_low(path: Path) -> None:
    command = [str(ANALYZE), "security", "--offline=true", "--no-pager", f"--threshold={int(WORST * 10)}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= WORST, done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("path", PARTIES, ids=lambda path: path.stem)
def test_one_that_fails_again_and_again_stays_down_and_tells_somebody(path: Path) -> None:
    """Without a limit, systemd below 254 starts it for ever and never comes to OnFailure."""
    found = settings(path)
    assert found["OnFailure"] == ["dictpfl-failed@%n.service"]
    (delay,), (burst,) = found["RestartSec"], found["StartLimitBurst"]
    assert found["StartLimitIntervalSec"] == ["1h"]
    assert int(burst) > 1
    assert int(burst) * int(delay) <= 3600 / 2, "the limit is reached though each start takes as long as the pause"
    (told,) = settings(FAILED)["ExecStart"]
    assert "%i has failed" in told
    assert shutil.which(told.split()[0])


@pytest.mark.parametrize("path", UNITS, ids=NAMES)
def test_memory_has_a_limit(path: Path) -> None:
    (most,) = settings(path)["MemoryMax"]
    assert re.fullmatch(r"80%|64M", most)
    assert path == FAILED or settings(path)["OOMPolicy"] == ["continue"], "`up` starts a program again, not all of them"


@pytest.mark.parametrize("path", PARTIES, ids=lambda path: path.stem)
def test_what_it_starts_exists_and_is_tested(path: Path) -> None:
    found = settings(path)
    (start,) = found["ExecStart"]
    program, *arguments = shlex.split(start.replace("%i", "clinic"))
    assert program == "/opt/dictpfl/bin/dictpfl"
    assert start.count("%") == ("institution" in path.name)
    require_process_test(require_command(arguments))
    assert found["User"] == ["dictpfl"]
    assert "root" not in found["User"]


def test_rounds_go_on_after_a_reboot_and_end_with_the_last() -> None:
    found = settings(RUN)
    assert found["After"] == found["Wants"] == [COORDINATOR.name]
    assert found["Restart"] == ["on-failure"], "status 0 means that all rounds are done"
    assert found["WantedBy"] == ["multi-user.target"]
    own = {"ExecStart", "Description", "After", "Wants", "RestartSec", "TimeoutStopSec"}
    held = {name: value for name, value in found.items() if name not in own}
    assert held == {name: value for name, value in settings(COORDINATOR).items() if name not in own}, (
        "as narrow as the other"
    )


def test_the_passphrase_is_a_credential() -> None:
    (given,) = settings(INSTITUTION)["LoadCredential"]
    name, _, source = given.partition(":")
    from dictpfl.client.keys.vault import CREDENTIAL

    assert name == CREDENTIAL
    assert source == "/etc/dictpfl/%i.passphrase"
    assert "LoadCredential" not in settings(COORDINATOR), "the coordinator has nothing to open"


# What the coordinator's unit forbids and this machine can forbid without systemd: memory that is written, then run.

_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


def deny_write_execute() -> None:
    if ctypes.CDLL(None).prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
        os._exit(77)


def can_deny() -> bool:
    code = "import mmap; mmap.mmap(-1, 4096, prot=7)"
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=deny_write_execute, capture_output=True, check=False)
    return done.returncode not in (0, 77)


needs_denial = pytest.mark.skipif(not can_deny(), reason="this kernel has no PR_SET_MDWE (Linux 6.3)")


@pytest.mark.slow
@needs_denial
def test_the_coordinator_runs_with_memory_deny_write_execute(coordinator: Path) -> None:
    assert settings(COORDINATOR)["MemoryDenyWriteExecute"] == ["yes"]
    try_out(coordinator / "tls", [])
    command = [sys.executable, "-m", "dictpfl.deploy.cli", "coordinator", "up", "--folder", str(coordinator), "--port"]
    with (coordinator / "output").open("wb") as output:
        up = subprocess.Popen(
            [*command, str(health.free_port())], stdout=output, stderr=output,
            preexec_fn=deny_write_execute,  # noqa: PLW1509  one system call
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while [program.serves for program in health.of(coordinator)] != [True, True]:
            assert up.poll() is None, (coordinator / "output").read_text()
            assert time.monotonic() < deadline, (coordinator / "output").read_text()
            time.sleep(0.2)
        flags = [Path(f"/proc/{p['pid']}/status") for p in health.processes(coordinator)["programs"].values()]
        assert len(flags) == 2
    finally:
        up.terminate()
        assert up.wait(20) == 0


@needs_denial
def test_ciphertexts_are_added_with_memory_deny_write_execute() -> None:
    """What the server app does: SEAL and the folding, in a process of its own."""
    code = "from dictpfl.deploy.doctor import _ckks; found = _ckks(); print(found); raise SystemExit(not found.ok)"
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=deny_write_execute, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_institution_may_make_code() -> None:
    """Torch does (oneDNN): with the restriction a convolution fails, so the unit must not have it."""
    assert "MemoryDenyWriteExecute" not in settings(INSTITUTION)
