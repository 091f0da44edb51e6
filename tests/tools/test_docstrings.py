"""Docstrings begin with a verb or a noun, in every room; rooms that were not rewritten yet may only get better."""

from pathlib import Path

import pytest

from tools.docstrings import ROOMS, ROOT, faults

STILL: dict[str, int] = {}
"""Most faults of rooms that still have some; none has."""


def room_of(path: Path) -> str:
    """The listed room that a file is in, else the file itself, which has no excuse."""
    name = path.relative_to(ROOT).as_posix()
    return next((room for room in STILL if name.startswith(f"{room}/")), name)


def test_no_docstring_begins_with_a_clause_or_presses_attributes_together() -> None:
    listed: dict[str, list[str]] = {}
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        listed.setdefault(room_of(path), []).extend(faults(path))
    worse = {room: breaches for room, breaches in listed.items() if len(breaches) > STILL.get(room, 0)}
    assert worse == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"""What it is."""', 1),
        ('"""The thing."""', 0),
        ('"""Of a digit."""\n\nSIZE = 1\n"""Bytes of a digit."""', 1),
        ('"""Module."""\n\nSIZE = 1\n"""Whether it is so."""', 1),
        ('"""Module."""\n\ndef f() -> None:\n    """Whether it is so."""', 1),
        ('"""Module."""\n\ndef _f() -> None:\n    """Whether it is so."""', 0),
        ('"""Module."""\n\ndef f() -> None:\n    """Do.\n\n    Args:\n        a: of this. `b`: of that.\n    """', 1),
        (
            '"""Module."""\n\ndef f() -> None:\n    """Do.\n\n    Args:\n        a: size.\n        b: count; see `c`.\n    """',
            0,
        ),
    ],
)
def test_the_check_sees_what_it_should(text: str, count: int, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(text)
    assert len(list(faults(tmp_path / "module.py"))) == count
