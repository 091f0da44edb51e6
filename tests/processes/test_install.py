"""Step 0 of the manuals, typed: each party's environment out of the release's folder and the package index, by hash."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.support.manuals import MANUALS, SKIPPED, Block, sections, text_of
from tools import locks, release

OTHER_PYTHON = shutil.which("python3.13", path="/usr/bin:/usr/local/bin")
WITHIN_SECONDS = 1800


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "release"
    assert list(release.made(folder)) == []
    return folder


def step_0(page: str) -> list[Block]:
    """The block that installs, and the one after it."""
    found = [p for p in sections(page, text_of(page))["0-install"].pieces() if isinstance(p, Block)]
    assert found[0].code.splitlines()[0] in SKIPPED
    return found[:2]


def typed(page: str, python: str, release_folder: Path, home: Path) -> str:
    """Type step 0 in an empty home that has the release's folder; what it printed."""
    home.mkdir()
    shutil.copytree(release_folder, home / "release")
    tools = home / "bin"
    tools.mkdir()
    (tools / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n')
    (tools / "python3").chmod(0o755)
    here = str(Path(sys.executable).parent)
    path = [str(tools), *(part for part in os.environ["PATH"].split(":") if part != here)]
    unset = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-euo", "pipefail", "-c", "".join(block.code for block in step_0(page))],
        cwd=home, env={**environment, "HOME": str(home), "PATH": ":".join(path)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=WITHIN_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def installed(home: Path) -> dict[str, str]:
    command = [home / "environment" / "bin" / "python", "-m", "pip", "list", "--format", "freeze"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pairs = (line.partition("==") for line in done.stdout.splitlines())
    return {canonicalize_name(name): number for name, _, number in pairs if name not in {"pip", "setuptools"}}


def pinned(name: str) -> dict[str, str]:
    found = {canonicalize_name(pin.name): pin.version for pin in locks.pins(locks.path(name).read_text())}
    return {name: number for name, number in found.items() if name != "setuptools"} | {"dictpfl": release.version()}


def require_by_hash(printed: str, released: Path) -> None:
    """The release's hash was shown, each file held to it, and the app is the one of this tree."""
    assert printed.startswith(f"{release.digest(released / release.SUMS)}  release/{release.SUMS}\n")
    assert printed.count(": OK\n") == len((released / release.SUMS).read_text().splitlines())
    here = subprocess.run(
        [sys.executable, "-m", "dictpfl.deploy.cli", "bundle"], capture_output=True, text=True, check=True
    )
    assert re.findall(r"^[0-9a-f]{64}$", printed, re.MULTILINE) == [here.stdout.strip()]


@pytest.mark.deployment
@pytest.mark.parametrize("python", [sys.executable, OTHER_PYTHON], ids=["this Python", "3.13"])
def test_the_coordinators_manual_installs_the_lock(python: str | None, released: Path, tmp_path: Path) -> None:
    if python is None:
        pytest.skip("python3.13 is not installed")
    printed = typed("deploy/coordinator.md", python, released, tmp_path / "home")
    require_by_hash(printed, released)
    assert installed(tmp_path / "home") == pinned("coordinator")
    version = ("-c", "import sys; print(sys.version)")
    own, asked = (
        subprocess.check_output([one, *version]) for one in (tmp_path / "home/environment/bin/python", python)
    )
    assert own == asked


@pytest.mark.deployment
def test_a_package_of_another_hash_is_not_installed(released: Path, tmp_path: Path) -> None:
    """One digit of one hash of the lock: pip names the package, and nothing is installed."""
    changed = shutil.copytree(released, tmp_path / "release")
    lock = changed / "coordinator.txt"
    pin = next(pin for pin in locks.pins(lock.read_text()) if pin.name == "idna")
    wrong = pin.hashes[0][:-1] + ("0" if pin.hashes[0][-1] != "0" else "1")
    lock.write_text(lock.read_text().replace(pin.hashes[0], wrong))
    with pytest.raises(AssertionError, match=r"coordinator\.txt: FAILED"):
        typed("deploy/coordinator.md", sys.executable, changed, tmp_path / "one")
    sums = changed / release.SUMS  # a liar changes these, too: then pip finds it, or people by phone
    sums.write_text(sums.read_text().replace(release.digest(released / lock.name), release.digest(lock)))
    with pytest.raises(AssertionError, match=r"DO NOT MATCH THE HASHES[\s\S]*idna==") as refused:
        typed("deploy/coordinator.md", sys.executable, changed, tmp_path / "two")
    assert wrong in str(refused.value)
    assert installed(tmp_path / "two") == {}


@pytest.mark.deployment
@pytest.mark.nightly
def test_the_institutions_manual_installs_the_lock(released: Path, tmp_path: Path) -> None:
    """Several gigabytes: torch as the index has it. The lead types the same."""
    page = "deploy/institution.md"
    assert step_0("deploy/lead.md")[0].code == step_0(page)[0].code
    printed = typed(page, sys.executable, released, tmp_path / "home")
    require_by_hash(printed, released)
    assert installed(tmp_path / "home") == pinned("institution")


def test_each_manual_has_one_such_block() -> None:
    assert [len(step_0(page)) for page in MANUALS] == [2, 2, 2]
