"""Pin what parties install, by version and SHA-256: `python tools/locks.py` resolves pyproject.toml again, into locks/.

Needs the network; a release copies what is committed and needs none. Pinned is what is installed where this runs, so that the tests
ran with it. A lock holds wheels alone, for Linux on x86-64 and aarch64 and every Python of `requires-python`.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import uv
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "locks"
LOCKS: Mapping[str, tuple[str, ...]] = {
    "coordinator": (),
    "institution": ("institution",),
    "institution-extras": ("institution", "transformers", "timm", "dp", "quantised", "video"),
}
"""Extras of each lock. The last one is for an institution whose federation uses any of them."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
REMEDY = "Run `python tools/locks.py` and commit locks/"
_PLATFORM = re.compile(rf"any|(?:manylinux\w*|linux)_({'|'.join(MACHINES)})")
_PIN = re.compile(
    r"(?:# (?P<licence>[^\n]+)\n)?(?P<name>[\w.-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\\n]+?))? \\\n"
)
_SHORT = 60


@dataclass(frozen=True)
class Pin:
    """One package of a lock: where it is needed (empty: everywhere), its licence as it says, and the wheels that are allowed."""

    name: str
    version: str
    marker: str
    licence: str
    hashes: tuple[str, ...]

    @property
    def lines(self) -> str:
        """What pip reads."""
        marker = f" ; {self.marker}" if self.marker else ""
        hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in self.hashes)
        return f"# {self.licence}\n{self.name}=={self.version}{marker} \\\n{hashes}\n"


def path(name: str, root: Path = ROOT) -> Path:
    """Return where a lock lies."""
    return root / FOLDER / f"{name}.txt"


def needed(name: str, root: Path = ROOT) -> list[str]:
    """Return what pyproject.toml says that a lock must pin, Python first, in one spelling and order."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional, found, waiting = project["optional-dependencies"], set(project["dependencies"]), list(LOCKS[name])
    while waiting:
        for line in optional[waiting.pop()]:
            own = Requirement(line)
            if own.name == project["name"]:
                waiting += own.extras
            else:
                found.add(line)
    return [f"Python {project['requires-python']}", *sorted(str(Requirement(line)) for line in found)]


def pins(text: str) -> list[Pin]:
    """Read the packages of a lock."""
    found = list(_PIN.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [
        Pin(
            match["name"],
            match["version"],
            match["marker"] or "",
            match["licence"] or "",
            tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", text[match.end() : end])),
        )
        for match, end in zip(found, ends, strict=True)
    ]


def faults(root: Path = ROOT) -> Iterator[str]:
    """Say which locks are not of this pyproject.toml, a line a fault."""
    for name in LOCKS:
        try:
            text = path(name, root).read_text(encoding="utf-8")
        except FileNotFoundError:
            yield f"{FOLDER}/{name}.txt is missing. {REMEDY}"
            continue
        expected, there = needed(name, root), re.findall(r"^# needs (.+)$", text, re.MULTILINE)
        for line in sorted(set(expected) ^ set(there)):
            where, other = ("pyproject.toml", "the lock") if line in expected else ("the lock", "pyproject.toml")
            yield f"{FOLDER}/{name}.txt: expected what pyproject.toml needs, found {line} in {where}, not in {other}. {REMEDY}"
        yield from (f"{FOLDER}/{name}.txt: {pin.name} has no hash. {REMEDY}" for pin in pins(text) if not pin.hashes)


def licences(pin: Pin) -> list[dict[str, Any]]:
    """Return a package's licence as CycloneDX has it: an SPDX expression if it is one, otherwise by name."""
    try:
        return [{"expression": str(canonicalize_license_expression(pin.licence))}]
    except InvalidLicenseExpression:
        return [{"license": {"name": pin.licence}}]


def _component(name: str, version: str, kind: str, hashes: tuple[str, ...], more: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": kind,
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in hashes],
        **more,
    }


def bill(text: str, version: str, wheel: str) -> dict[str, Any]:
    """Make the bill of materials of a lock, CycloneDX 1.6: dictpfl itself, and each package with licence and hashes.

    Args:
        text: the lock.
        version: of dictpfl.
        wheel: SHA-256 of its wheel.
    """
    components = []
    for pin in pins(text):
        more: dict[str, Any] = {"licenses": licences(pin)}
        if pin.marker:
            more["properties"] = [{"name": "dictpfl:marker", "value": pin.marker}]
        components.append(_component(pin.name, pin.version, "library", pin.hashes, more))
    own = _component("dictpfl", version, "application", (wheel,), {"licenses": [{"expression": "Apache-2.0"}]})
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": components,
    }


def _resolved(requirements: list[str]) -> list[dict[str, Any]]:
    """Ask uv for the packages of all targets at once, where they are installed here in the versions that are."""
    here = {canonicalize_name(found.metadata["Name"]): found.version.partition("+")[0] for found in distributions()}
    with tempfile.TemporaryDirectory() as scratch:
        wanted, constraints, lock = (Path(scratch) / name for name in ("in.txt", "constraints.txt", "pylock.toml"))
        wanted.write_text("\n".join(requirements))
        constraints.write_text("\n".join(f"{name}=={number}" for name, number in here.items() if name != "dictpfl"))
        options = ["--universal", "--python-version", PYTHONS[0], "--only-binary", ":all:", "--quiet"]
        files = [str(wanted), "--constraint", str(constraints), "--format", "pylock.toml", "--output-file", str(lock)]
        subprocess.run([uv.find_uv_bin(), "pip", "compile", *options, *files], check=True, stdout=subprocess.DEVNULL)
        return list(tomllib.loads(lock.read_text(encoding="utf-8"))["packages"])


def _environment(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "os_name": "posix",
    }


def _targets(wheel: str) -> set[tuple[str, str]]:
    """Return the Pythons and machines that a wheel is for, by its file name."""
    tags, found = parse_wheel_filename(wheel)[3], set()
    for python in PYTHONS:
        number = tuple(map(int, python.split(".")))
        interpreter = f"cp{python.replace('.', '')}"
        known = (*cpython_tags(number, platforms=["any"]), *compatible_tags(number, interpreter, ["any"]))
        known_pairs = {(tag.interpreter, tag.abi) for tag in known}
        for tag in tags:
            platform = _PLATFORM.fullmatch(tag.platform)
            if platform and (tag.interpreter, tag.abi) in known_pairs:
                found |= {(python, machine) for machine in ([platform[1]] if platform[1] else MACHINES)}
    return found


def _pinned(package: Mapping[str, Any]) -> Pin | None:
    """Turn one package of uv's lock into ours; None where no target needs it.

    Raises:
        SystemExit: a target has no wheel.
    """
    name, version, marker = package["name"], package["version"], package.get("marker", "")
    every = {(python, machine) for python in PYTHONS for machine in MACHINES}
    asking = {pair for pair in every if not marker or Marker(marker).evaluate(dict(_environment(*pair)))}
    if not asking:
        return None
    wheels = {wheel["url"].rpartition("/")[2].replace("%2B", "+"): wheel for wheel in package["wheels"]}
    kept = {file: wheel for file, wheel in wheels.items() if _targets(file) & asking}
    missing = asking - {pair for file in kept for pair in _targets(file)}
    if missing:
        raise SystemExit(f"{name} {version} has no wheel for {', '.join(map(' on '.join, sorted(missing)))}")
    smallest = min(kept.values(), key=lambda wheel: int(wheel["size"]))
    hashes = tuple(sorted(wheel["hashes"]["sha256"] for wheel in kept.values()))
    return Pin(
        name, version, "" if asking == every else marker, _licence(_metadata(name, version, smallest["url"])), hashes
    )


def _metadata(name: str, version: str, wheel: str) -> Message:
    """Read a package's metadata: as installed here, as the index has it by itself, or out of the wheel."""
    try:
        here = distribution(name)
        if here.version.partition("+")[0] == version:
            return message_from_string(here.read_text("METADATA") or "")
    except PackageNotFoundError:
        pass
    try:
        return message_from_string(_fetched(f"{wheel}.metadata").decode())
    except HTTPError:
        with zipfile.ZipFile(io.BytesIO(_fetched(wheel))) as archive:
            (file,) = (file for file in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", file))
            return message_from_string(archive.read(file).decode())


def _fetched(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=300) as answer:  # noqa: S310 (an address of uv)
        return bytes(answer.read())


def _licence(metadata: Message) -> str:
    """Return what a package says of its licence, in one line."""
    classified = [
        line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line.startswith("License")
    ]
    stated = [metadata[field] for field in ("License-Expression", "License") if metadata[field]]
    usable = [line for line in stated if "\n" not in line and len(line) < _SHORT and line != "UNKNOWN"]
    return usable[0] if usable else ", ".join(classified) or "not stated"


def main() -> int:
    """Resolve once, for all locks, and write each."""
    widest = max(LOCKS, key=lambda name: len(LOCKS[name]))
    known = {pin.name: pin for pin in filter(None, map(_pinned, _resolved(needed(widest)[1:])))}
    (ROOT / FOLDER).mkdir(exist_ok=True)
    for name in LOCKS:
        lines = needed(name)
        used = sorted({canonicalize_name(package["name"]) for package in _resolved(lines[1:])} & set(known))
        head = [
            f"# What {name} installs, for Linux on {' and '.join(MACHINES)}. Made by `python tools/locks.py`.",
            *(f"# needs {line}" for line in lines),
            "--only-binary :all:",
        ]
        path(name).write_text(
            "\n".join(head) + "\n" + "".join(known[package].lines for package in used), encoding="utf-8"
        )
        print(f"{FOLDER}/{name}.txt: {len(used)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
