"""What a page says that a command prints, held to what it printed."""

from __future__ import annotations

import re
from collections.abc import Sequence


def not_shown(expected: Sequence[str], printed: str) -> str | None:
    """The first expected line that was not printed, in order; `…` stands for anything."""
    lines = iter(printed.splitlines())
    for line in expected:
        pattern = re.compile(".*".join(map(re.escape, line.strip().split("…"))))
        if not any(pattern.fullmatch(found.strip()) for found in lines):
            return line
    return None
