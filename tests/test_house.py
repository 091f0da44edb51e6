"""Tests are housed as the code is: who knows a module knows where its tests are."""

from __future__ import annotations

import itertools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support import ROOT

OTHERS = {"support", "system", "processes", "attacks", "ecosystem", "vectors", "benchmarks", "benchmarks/paper"}
"""Helpers, whole federations in one process, real processes, attacks on the whole, other libraries, golden bytes."""
ROOMS = {"client", "common", "deploy", "experiments", "server", "tools"}
TESTS = ROOT / "tests"


def folders() -> set[str]:
    """Folders that hold tests, relative to `tests`."""
    return {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")} - {"."}


def test_every_folder_mirrors_one_of_the_code_or_is_named_here() -> None:
    strange = {folder for folder in folders() - OTHERS if not any((ROOT / folder).glob("*.py"))}
    assert not strange, f"{strange} mirror no folder of the code: move them, or name them here"
    assert {folder.split("/")[0] for folder in folders()} <= ROOMS | OTHERS


def test_each_test_is_run_by_one_command() -> None:
    """`make test`, `test-slow` and `test-deploy` are `make test-all`, and CI; what is left is `make nightly`."""
    recipes = dict(
        re.findall(r"^([\w-]+): .*stamp\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert "-m " not in recipes["test"].replace("-m pytest", ""), "it runs what is run where nobody says otherwise"
    chosen = [options["addopts"][options["addopts"].index("-m") + 1]]
    chosen += [
        re.findall(r'-m ("[^"]+"|nightly)', recipes[name])[-1].strip('"')
        for name in ("test-slow", "test-deploy", "nightly")
    ]
    for marks in itertools.product((False, True), repeat=3):
        marked = dict(zip(("slow", "deployment", "nightly"), marks, strict=True))
        assert sum(eval(one, {}, marked) for one in chosen) == 1, marked  # noqa: S307 -- our own Makefile
    (parts,) = re.findall(r"^for part in (.+); do$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert parts.split() == ["test", "test-slow", "test-deploy"]
    elsewhere = [
        path for path in TESTS.rglob("test_*.py") if path.parent.name != "processes" and path != Path(__file__)
    ]
    assert not [path for path in elsewhere if "mark.deployment" in path.read_text(encoding="utf-8")]


def test_no_helper_is_loaded_by_its_path() -> None:
    """`tests.support` is a package: there is one way to a helper."""
    tricks = ("spec_from_file_" + "location", "sys.path." + "insert")
    assert [path for path in TESTS.rglob("*.py") for trick in tricks if trick in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize(("version", "fits"), [("3.10", False), ("3.11", True), ("3.14", True), ("3.15", False)])
def test_make_begins_no_environment_with_a_python_that_the_package_refuses(
    version: str, fits: bool, tmp_path: Path
) -> None:
    """pip refused after it was made, and then the advice `make PYTHON=...` did nothing: it was there."""
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
case "$1" in
-c) exec python3 -c "import sys; sys.version_info = ({version.replace(".", ", ")}, 0, 'final', 0); exec(sys.argv[1])" "$2" ;;
--version) echo "Python {version}.0" ;;
*) mkdir -p "$3/bin" && touch "$3/bin/python" ;;
esac
""")
    python.chmod(0o700)
    made = tmp_path / "environment" / "bin" / "python"
    done = subprocess.run(
        ["make", "-f", ROOT / "Makefile", f"PYTHON={python}", f"VENV={made.parents[1]}", made],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.exists() is fits, (done.stdout, done.stderr)
    assert fits or f"3.11 to 3.14 is needed, Python {version}.0 found" in done.stdout
