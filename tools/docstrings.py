"""Docstrings that break the house's rule: `python tools/docstrings.py [PATH ...]`; exit status 1 if there are any.

The first word is a verb or the thing's own noun, so that a reader meets the subject at once, and each attribute or argument has
a line of its own. A public docstring that begins with a word such as "What" or "Whether", or a line such as
"size: of a digit. `count`: how many", is listed with its place.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("client", "server", "common", "deploy")
CLAUSES = frozenset(
    [
        "as",
        "by",
        "from",
        "how",
        "if",
        "of",
        "so",
        "that",
        "their",
        "those",
        "to",
        "under",
        "what",
        "when",
        "where",
        "whether",
        "which",
        "who",
        "whom",
        "whose",
        "why",
        "with",
    ]
)
"""First words that begin a clause: whoever reads one has to solve it before the subject comes."""
_PRESSED = re.compile(r"^\s*\w+(, \w+)*: .*\. `\w+`(, `\w+`)*: ", re.MULTILINE)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every public docstring in a module, those of attributes included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = getattr(node, "name", "")
            if not name.startswith("_") and (text := ast.get_docstring(node)):
                yield node.body[0].lineno, text
        if isinstance(node, ast.Module | ast.ClassDef):
            for before, after in zip(node.body, node.body[1:], strict=False):
                match before, after:
                    case (ast.Assign() | ast.AnnAssign(), ast.Expr(value=ast.Constant(value=str(text)))):
                        yield after.lineno, text


def faults(path: Path) -> Iterator[str]:
    """Breaches of the rule in a file, each with its line."""
    for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
        first = re.match(r"\w*", text.lstrip())
        if first and first.group().lower() in CLAUSES:
            yield f"{path}:{line}: begins with {first.group()!r}: {text.splitlines()[0]}"
        for pressed in _PRESSED.finditer(text):
            yield f"{path}:{line}: two attributes in a line: {pressed.group().strip()}"


def main(paths: list[str]) -> int:
    """Print every fault below the given files or folders; all rooms, if none are given."""
    roots = [Path(path) for path in paths] or [ROOT / room for room in ROOMS]
    listed = [fault for root in roots for path in sorted(root.rglob("*.py")) or [root] for fault in faults(path)]
    print("\n".join(listed) or "every public docstring begins with a verb or a noun")
    return int(bool(listed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
