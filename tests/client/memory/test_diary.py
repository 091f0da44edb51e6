"""The diary of an institution."""

from __future__ import annotations

import json
from pathlib import Path

from dictpfl.client.folder import DIARY
from dictpfl.client.memory.diary import Diary


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
