"""Fill files into a page: `python tools/snippets.py [--check]`.

A fenced block behind a line `<!-- file: PATH -->` holds the whole file at that path, from the repository's root. So a page
shows code that tests run, and a reader of the bare Markdown sees it too.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("docs/how-to/extend.md",)
_BLOCK = re.compile(r"(<!-- file: (\S+) -->\n```\w+\n).*?(^```$)", re.DOTALL | re.MULTILINE)


def filled(text: str) -> str:
    """Page with the present files in it."""
    return _BLOCK.sub(lambda m: f"{m[1]}{(ROOT / m[2]).read_text(encoding='utf-8')}{m[3]}", text)


def main() -> int:
    """Write the pages, or say which are out of date."""
    stale = [page for page in PAGES if filled(text := (ROOT / page).read_text(encoding="utf-8")) != text]
    if "--check" in sys.argv[1:]:
        for page in stale:
            print(f"{page} shows an older file; run `make docs`", file=sys.stderr)
        return int(bool(stale))
    for page in stale:
        (ROOT / page).write_text(filled((ROOT / page).read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
