"""What a benchmark cannot do as asked is refused, in words, before anything is measured or written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lib.machine import ROOT

PROGRAMS = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if '"--jobs"' in path.read_text(encoding="utf-8")
)


def asked(program: str, *words: str, folder: Path) -> str:
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / f"{program}.py"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_process_at_a_time_is_refused(program: str, tmp_path: Path) -> None:
    assert "'0' is no number of 1 or more" in asked(program, "--jobs", "0", folder=tmp_path)


def test_the_programs_are_found() -> None:
    assert {"paper", "language", "clinical", "newsgroups"} <= set(PROGRAMS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nosuch/*"], "no cell fits nosuch/*; --list names them"),
        (["--only", "heart/*", "--seeds", "99", "--list"], "no cell fits heart/* with seed 99"),
        (["--seeds", "one"], "expected seeds such as 1,2,3"),
        (["--list", "--render"], "not allowed with argument"),
        (["--subset", "--only", "heart/*"], "leave them out with --render and --subset"),
        (["--render", "--into", "elsewhere"], "leave --into out"),
        (["--list", "--into", __file__], "is a file; expected a folder"),
    ],
)
def test_the_paper_s_cells(words: list[str], said: str, tmp_path: Path) -> None:
    assert said in asked("paper", *words, folder=tmp_path)


@pytest.mark.parametrize(
    "damaged", ["{", "[]", json.dumps({"key": "tune/heart/dictpfl/rate-0.002", "value": {"settings": {}}})]
)
def test_a_damaged_cell_is_named(damaged: str, tmp_path: Path) -> None:
    cells = tmp_path / "store" / "tune.jsonl"
    cells.parent.mkdir()
    cells.write_text(damaged + "\n", encoding="utf-8")
    said = asked("paper", "--only", "tune/heart/dictpfl/rate-0.002", "--into", "store", folder=tmp_path)
    assert str(cells) in said
    assert "is damaged" in said
    assert "take it back from git" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "none"], "unknown method 'none'; known: "),
        (["--only", "nosuch", "--list"], "no cell fits nosuch"),
        (["--list", "--equal"], "not allowed with argument"),
    ],
)
def test_the_language_model_s_cells(words: list[str], said: str, tmp_path: Path) -> None:
    assert said in asked("language", *words, folder=tmp_path)


@pytest.mark.parametrize(
    ("program", "option"),
    [
        ("dp", "--cases"),
        ("bits", "--cases"),
        ("refresh", "--cases"),
        ("ablations", "--only"),
        ("accuracy", "--methods"),
    ],
)
def test_what_is_unknown_is_told_with_what_is_known(program: str, option: str, tmp_path: Path) -> None:
    said = asked(program, option, "nosuch", folder=tmp_path)
    assert "nosuch" in said
    assert "known: " in said.replace("\n", " ")
