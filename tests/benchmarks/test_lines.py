"""Cells in JSON lines: sorted, floats with their bits, nothing lost by two writers or by a line that was not finished."""

from __future__ import annotations

import json
import math
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dictpfl.common.errors import ConfigError
from lib.lines import Lines


def test_a_cell_that_is_measured_again_changes_one_line(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "new" / "cells.jsonl")
    assert (lines.keys(), lines.get("a")) == ([], None)
    for key in ("b", "c", "a"):
        lines.put(key, {"seed": key})
    assert lines.keys() == ["a", "b", "c"]
    before = lines.path.read_text().splitlines()
    lines.put("b", {"seed": "again"})
    after = lines.path.read_text().splitlines()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]
    lines.drop("b")
    assert lines.keys() == ["a", "c"]
    assert [path.name for path in lines.path.parent.iterdir()] == ["cells.jsonl"]


def test_floats_keep_their_bits_and_words_their_letters(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.inf]
    Lines(tmp_path / "a.jsonl").put("é", {"values": values, "word": "naïve \u2028 line"})
    found = Lines(tmp_path / "a.jsonl").get("é")
    assert found is not None
    assert [struct.pack("<d", v) for v in found["values"]] == [struct.pack("<d", v) for v in values]
    assert found["word"] == "naïve \u2028 line"


def test_what_is_read_may_be_changed(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "a.jsonl")
    lines.put("a", {"one": 1})
    lines.get("a").pop("one")
    assert lines.get("a") == {"one": 1}


def test_a_last_line_that_was_not_finished_is_dropped(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "a.jsonl")
    lines.put("a", 1)
    with lines.path.open("a") as file:
        file.write('{"key": "b", "val')
    assert lines.keys() == ["a"]
    lines.put("c", 3)
    assert lines.path.read_text() == "".join(json.dumps({"key": k, "value": v}) + "\n" for k, v in (("a", 1), ("c", 3)))


@pytest.mark.parametrize("line", ["{", "[]", '{"key": 1, "value": 2}', '{"key": "a"}'])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    lines = Lines(tmp_path / "a.jsonl")
    lines.put("a", 1)
    with lines.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=r"a\.jsonl, line 2 is damaged.*take it back from git"):
        lines.get("a")


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        Lines(tmp_path / "a.jsonl").put(f"{number:03}", number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(80)))
    assert Lines(tmp_path / "a.jsonl").keys() == [f"{number:03}" for number in range(80)]
