"""Build the files of a release and check them: `make release`, or `python tools/release.py [--out dist]`.

Checked: the version is one of semantic versioning and has its heading in CHANGELOG.md and its line in
docs/reference/compatibility.md; nothing is changed that is not committed; locks/ is of this pyproject.toml; the wheel holds each file of
the tree, under one name; the wheel built from the source distribution is the same, byte for byte. Written: wheel, source distribution,
a lock and a bill of materials (CycloneDX) a kind of party, `SHA256SUMS`. Works offline; the same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools import locks, wheels

ROOT = wheels.ROOT
SUMS = "SHA256SUMS"
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")


def version(root: Path = ROOT) -> str:
    """Read the version of the tree."""
    return str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def unready(root: Path = ROOT) -> Iterator[str]:
    """Say what of the tree does not allow a release, a line a fault."""
    number = version(root)
    if not _VERSION.fullmatch(number):
        yield f"version {number} is none of semantic versioning (MAJOR.MINOR.PATCH)"
    short = number.rpartition(".")[0]
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not headings or (headings[0].split()[0] != number and headings[0] != f"Unreleased: {short}"):
        yield f"CHANGELOG.md: expected its first heading to be {number} or `Unreleased: {short}`, found {headings[:1]}"
    if f"\n| {number} | " not in (root / "docs" / "reference" / "compatibility.md").read_text(encoding="utf-8"):
        yield f"docs/reference/compatibility.md has no line of release {number}"
    changed = subprocess.run(
        [shutil.which("git") or "git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if changed:
        yield f"{len(changed)} files are not committed, {changed[0].split()[-1]} among them: what is released must be found again"
    yield from locks.faults(root)


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def made(out: Path, root: Path = ROOT) -> Iterator[str]:
    """Build into `out`; say what is wrong with what was built, a line a fault, and then leave `out` as it was."""
    with tempfile.TemporaryDirectory() as scratch:
        built = wheels.built(root, Path(scratch))
        wheel, again = built["wheel"], built["wheel from sdist"]
        wrong = list(wheels.faults(wheel, wheels.tree(root)))
        if digest(wheel) != digest(again):
            wrong.append("the wheel built from the source distribution is another one")
        yield from wrong
        if wrong:
            return
        out.mkdir(parents=True, exist_ok=True)
        files = [Path(shutil.copy(built[name], out)) for name in ("wheel", "sdist")]
        for name in locks.LOCKS:
            files += _locked(name, out, root, digest(wheel))
        (out / SUMS).write_text("".join(f"{digest(path)}  {path.name}\n" for path in files), encoding="utf-8")


def _locked(name: str, out: Path, root: Path, wheel: str) -> Iterator[Path]:
    """Write a lock that pins the wheel of this release, too, and the lock's bill of materials."""
    text, number, extras = (
        locks.path(name, root).read_text(encoding="utf-8"),
        version(root),
        ",".join(locks.LOCKS[name]),
    )
    lock, bill = out / f"{name}.txt", out / f"{name}.cdx.json"
    own = f"--find-links .\ndictpfl{f'[{extras}]' if extras else ''}=={number} \\\n    --hash=sha256:{wheel}\n"
    lock.write_text(text + own, encoding="utf-8")
    bill.write_text(json.dumps(locks.bill(text, number, wheel), indent=1) + "\n", encoding="utf-8")
    yield from (lock, bill)


def main() -> int:
    """Check, build, and print what to hand out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER", help="where to write")
    out = parser.parse_args().out
    wrong = list(unready()) or list(made(out))
    for fault in wrong:
        print(fault, file=sys.stderr)
    if wrong:
        return 1
    print((out / SUMS).read_text(encoding="utf-8"), end="")
    print(f"{digest(out / SUMS)}  {SUMS}")
    print(f"in {out}: hand out the folder; everybody compares the hash of {SUMS}, and what `dictpfl bundle` prints")
    return 0


if __name__ == "__main__":
    sys.exit(main())
