"""Tests are housed as the code is: who knows a module knows where its tests are."""

from __future__ import annotations

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


def test_no_helper_is_loaded_by_its_path() -> None:
    """`tests.support` is a package: there is one way to a helper."""
    tricks = ("spec_from_file_" + "location", "sys.path." + "insert")
    assert [path for path in TESTS.rglob("*.py") for trick in tricks if trick in path.read_text(encoding="utf-8")] == []
