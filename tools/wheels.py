"""Build what would be published and compare it with the tree: `python tools/wheels.py [--keep FOLDER]`.

Source distribution, wheel, and the wheel that is made from the source distribution must hold each file of the package
under the one name `dictpfl`, and one console script. Works offline: hatchling is called without an isolated environment.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections import Counter
from collections.abc import Iterator
from configparser import ConfigParser
from email import message_from_bytes
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "dictpfl"
ROOMS = ("client", "common", "deploy", "server")
"""Real folders at the top of the repository, folders of `dictpfl` when installed."""
_WITHIN_SECONDS = 120


def tree(root: Path = ROOT) -> set[str]:
    """Return the files that an installation must have, as paths in site-packages."""
    rooms = (path for room in ROOMS for path in (root / room).rglob("*") if "__pycache__" not in path.parts)
    files = {f"{PACKAGE}/{path.relative_to(root).as_posix()}" for path in rooms if path.is_file()}
    return files | {f"{PACKAGE}/{path.name}" for path in (root / PACKAGE).iterdir() if path.is_file()}


def build(root: Path, folder: Path, *targets: str) -> list[Path]:
    """Build targets such as `sdist` or `wheel:editable` of the project in `root` into `folder`; return the new files."""
    before = set(folder.glob("*"))
    chosen = [argument for target in targets for argument in ("-t", target)]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", *chosen, "-d", str(folder.resolve())],
        cwd=root,
        check=True,
        capture_output=True,
        timeout=_WITHIN_SECONDS,
    )
    return sorted(set(folder.glob("*")) - before)


def built(root: Path, folder: Path) -> dict[str, Path]:
    """Build the source distribution, the wheel, and the wheel from the source distribution; return each by its name."""
    for name in ("sdist", "wheel", "again", "unpacked"):
        (folder / name).mkdir(parents=True)
    (source,) = build(root, folder / "sdist", "sdist")
    (wheel,) = build(root, folder / "wheel", "wheel")
    with tarfile.open(source) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    (again,) = build(unpacked, folder / "again", "wheel")
    return {"sdist": source, "wheel": wheel, "wheel from sdist": again}


def contents(wheel: Path) -> set[str]:
    """Return the files that a wheel puts into site-packages, without those that describe the distribution."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not PurePosixPath(name).parts[0].endswith(".dist-info")}


def scripts(wheel: Path) -> dict[str, str]:
    """Return a wheel's console scripts: name and function."""
    entries = ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".dist-info/entry_points.txt"):
                entries.read_string(archive.read(name).decode())
    return dict(entries["console_scripts"]) if entries.has_section("console_scripts") else {}


def faults(wheel: Path, expected: set[str]) -> Iterator[str]:
    """Say what is wrong with a wheel, a line a fault."""
    there = contents(wheel)
    for word, paths in (("missing", expected - there), ("unexpected", there - expected)):
        for path in sorted(paths):
            yield f"{word}: {path}"
    names = sorted({path.split("/")[0] for path in there})
    if names != [PACKAGE]:
        yield f"top-level names: expected {PACKAGE} alone, found {', '.join(names)}"
    if list(scripts(wheel)) != [PACKAGE]:
        yield f"console scripts: expected {PACKAGE} alone, found {', '.join(scripts(wheel)) or 'none'}"


def requirements(wheel: Path) -> list[Requirement]:
    """Return what a wheel declares that it needs, extras included."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def needed(wheel: Path, *extras: str) -> dict[str, Distribution]:
    """Return the distributions installed here that a wheel with these extras needs, and those that they need, by name.

    Raises:
        PackageNotFoundError: one of them is not installed here; the message says which.
    """
    lines = {_normal(PACKAGE): requirements(wheel)}
    chosen: dict[str, Distribution] = {}
    seen: dict[str, set[str]] = {}
    waiting = [(_normal(PACKAGE), {"", *extras})]
    while waiting:
        name, wanted = waiting.pop()
        new = wanted - seen.setdefault(name, set())
        seen[name] |= new
        if name not in lines:
            chosen[name] = distribution(name)
            lines[name] = [Requirement(line) for line in chosen[name].requires or ()]
        waiting += [
            (_normal(further.name), {"", *further.extras})
            for further in lines[name]
            if any(further.marker is None or further.marker.evaluate({"extra": extra}) for extra in new)
        ]
    return chosen


def environment(folder: Path, wheel: Path, *extras: str) -> Path:
    """Make a virtual environment with a wheel and what it declares, and nothing else; return its interpreter.

    Nothing is downloaded: what the wheel needs is linked from where this interpreter has it. A package that is not
    declared is absent, to `import` as to `importlib.metadata`.
    """
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (own,) = (folder / "lib").glob("python3*/site-packages")
    for needs in needed(wheel, *extras).values():
        for name in {file.parts[0] for file in needs.files or ()} - {"..", "__pycache__"}:
            if not (own / name).exists():
                (own / name).symlink_to(Path(str(needs.locate_file(name))).resolve())
    install = ["install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", str(wheel)]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *install], check=True, timeout=_WITHIN_SECONDS
    )
    return python


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Print counts and faults of each archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="new folder for what is built")
    keep = parser.parse_args().keep
    expected, wrong = tree(), 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in built(ROOT, keep or Path(scratch)).items():
            if path.suffix != ".whl":
                print(f"{name:18} {path.name}")
                continue
            there = contents(path)
            kinds = Counter(PurePosixPath(file).suffix or "other" for file in there)
            print(f"{name:18} {len(there)} of {len(expected)} files: {', '.join(f'{n} {k}' for k, n in kinds.items())}")
            for fault in faults(path, expected):
                wrong += 1
                print(f"  {fault}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
