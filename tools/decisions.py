"""Write docs/decisions/index.md from the heads of the decisions: `python tools/decisions.py`; `--check` only compares.

A decision's first line is `# NNNN Title`, its second the date, `YYYY-MM-DD.`
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "decisions"
INDEX = FOLDER / "index.md"
LINES = re.compile(r"# (\d{4}) (.+)\n(\d{4}-\d\d-\d\d)\.\n")
HEAD = """# Decisions

What a newcomer would question, and why it is so today. Numbers have gaps. `python tools/decisions.py` writes this page.

| | decision | date |
|---|---|---|
"""


def row(path: Path) -> str:
    """Row of the index for a decision's file.

    Raises:
        ValueError: the first two lines are not as this module's docstring says, or the number is not the file's.
    """
    head = LINES.match(path.read_text(encoding="utf-8"))
    if head is None or not path.name.startswith(f"{head[1]}-"):
        raise ValueError(f"{path.name}: expected `# NNNN Title` with the file's number, then `YYYY-MM-DD.`")
    return f"| {head[1]} | [{head[2]}]({path.name}) | {head[3]} |\n"


def main() -> None:
    """Write the index, or compare it."""
    text = HEAD + "".join(row(path) for path in sorted(FOLDER.glob("[0-9]*.md")))
    if "--check" not in sys.argv:
        INDEX.write_text(text, encoding="utf-8")
    elif not INDEX.exists() or INDEX.read_text(encoding="utf-8") != text:
        sys.exit(f"{INDEX.name} does not list the decisions as they are: run python tools/decisions.py")


if __name__ == "__main__":
    main()
