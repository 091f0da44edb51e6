"""Do real sizes fit: data beyond memory, many institutions, several machines, and how long does each take?

    python benchmarks/real_sizes.py --small      # every row at a size for a look; results go to benchmarks/.cells, not to results
    python benchmarks/real_sizes.py              # every row at full size; hours, and tens of GB of disk: resumes where it was stopped
    python benchmarks/real_sizes.py --only a     # one row; several: --only a,c
    python benchmarks/real_sizes.py --again      # measures anew what was measured already

A row is a file `benchmarks/sizes/ROW_name.py` with a docstring that says what is measured, and a function `measure(small) -> dict` that
measures it beside its "before", in one run. Each row is measured in a process of its own, since its peak memory is a process's, and writes
a line of `benchmarks/results/real_sizes.jsonl`, with machine and date; a row that is there is not measured again. A row that fails is said, and the
others go on; the exit status is then 1. `{"skipped": reason}` is a row that this machine cannot measure: it is printed and not written.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.lines import Lines
from lib.machine import RESULTS, ROOT, machine

ROWS = Path(__file__).parent / "sizes"
_SMALL = ROOT / "benchmarks" / ".cells"


def rows() -> dict[str, str]:
    """Name of each row's module by its letter, sorted."""
    return {path.stem.partition("_")[0]: path.stem for path in sorted(ROWS.glob("[a-z]_*.py"))}


def title(module: str) -> str:
    """First line of a row's docstring, read without importing it."""
    return (ROWS / f"{module}.py").read_text(encoding="utf-8").lstrip('"').splitlines()[0].rstrip('"')


def place(*, small: bool) -> Lines:
    """File of all rows' figures."""
    return Lines((_SMALL if small else RESULTS) / "real_sizes.jsonl")


def measured(module: str, *, small: bool) -> Mapping[str, Any]:
    """Measure one row in this process."""
    sys.path.insert(0, str(ROWS))
    found: Mapping[str, Any] = importlib.import_module(module).measure(small)
    return found


def _in_a_process(module: str, *, small: bool) -> Mapping[str, Any] | None:
    """Measure one row in a process of its own; None if it failed, which it has then said."""
    command = [sys.executable, __file__, "--row", module, *(["--small"] if small else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    print("\n".join(lines[:-1]), end="\n" * bool(lines[:-1]))
    if done.returncode or not lines:
        return None
    found: Mapping[str, Any] = json.loads(lines[-1])
    return found


def main() -> int:
    """Measure the rows that are wanted and missing; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="letters of rows, with commas")
    parser.add_argument("--small", action="store_true", help="sizes for a look")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--row", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(measured(given.row, small=given.small)))
        return 0
    known, failed = rows(), []
    wanted = given.only.split(",") if given.only else list(known)
    if unknown := sorted(set(wanted) - set(known)):
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    for letter in wanted:
        lines = place(small=given.small)
        if lines.get(letter) is not None and not given.again:
            print(f"{letter}: measured already, {lines.path.relative_to(ROOT)}")
            continue
        print(f"{letter}: {title(known[letter])}", flush=True)
        facts, found = machine(), _in_a_process(known[letter], small=given.small)
        if found is None:
            failed.append(letter)
        elif "skipped" in found:
            print(f"{letter}: not measured: {found['skipped']}")
        else:
            lines.put(letter, {"machine": facts, "small": given.small, "figures": found})
            print(json.dumps(found, indent=1))
    for letter in failed:
        print(f"{letter}: failed, see above", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
