"""The diary of an institution."""

from __future__ import annotations

import json
from pathlib import Path

from dictpfl.client.folder import DIARY
from dictpfl.client.memory.diary import Diary, read_diary


def test_a_torn_line_takes_no_other_with_it(tmp_path: Path) -> None:
    diary = Diary(tmp_path, "north")
    diary.note("uploaded", 0, 5)
    with (tmp_path / DIARY).open("a", encoding="utf-8") as file:
        file.write('{"event": "appl')  # a power cut
    diary.note("applied", 0, 7)
    diary.note("uploaded", 1, 5, text="für")
    lines = (tmp_path / DIARY).read_text().splitlines()
    assert [json.loads(lines[place])["event"] for place in (0, 2, 3)] == ["uploaded", "applied", "uploaded"]
    assert lines[1] == '{"event": "appl'


def test_what_is_damaged_is_passed_over_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / DIARY
    assert read_diary(path) == []
    diary = Diary(tmp_path, "north")
    diary.note("uploaded", 0, 5)
    for damage in (
        b'{"event": "\xff\xfe", "round": 1}\n',
        b"5\n",
        b'{"round": 1}\n',
        b'["event"]\n',
        b'{"event": "a", "round": {}}\n',
        b"\x00\n",
    ):
        with path.open("ab") as file:
            file.write(damage)
    diary.note("applied", 1, 7)
    with path.open("ab") as file:
        file.write(b'{"event": "uplo')
    assert [(line["event"], line["round"]) for line in read_diary(path)] == [("uploaded", 0), ("applied", 1)]
    assert [line["event"] for line in read_diary(path, 160)] == ["applied"], "the end alone"
