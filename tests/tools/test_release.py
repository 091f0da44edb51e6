"""What a release hands out: the same bytes twice, locks that are of this tree, bills of materials, and faults by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools import locks, release, wheels

EACH = pytest.mark.parametrize("name", list(locks.LOCKS))


def copied(folder: Path) -> Path:
    """Copy the files that git knows, as another account would have them: other times, other modes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=wheels.ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = wheels.ROOT / name, folder / name
        if not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target, follow_symlinks=False)
        if not target.is_symlink():
            target.chmod(0o600)
            os.utime(target, (1, 1))
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "dist"
    assert list(release.made(folder)) == []
    return folder


@pytest.mark.slow
def test_two_copies_of_a_tree_give_the_same_bytes(released: Path, tmp_path: Path) -> None:
    assert list(release.made(tmp_path / "dist", copied(tmp_path / "tree"))) == []
    files = {path.name: release.digest(path) for path in (tmp_path / "dist").iterdir()}
    assert {path.name: release.digest(path) for path in released.iterdir()} == files
    assert len(files) == 3 + 2 * len(locks.LOCKS)


@pytest.mark.slow
def test_a_release_is_handed_out_with_its_hashes(released: Path) -> None:
    lines = [line.split("  ") for line in (released / release.SUMS).read_text().splitlines()]
    assert {name for _, name in lines} == {path.name for path in released.iterdir()} - {release.SUMS}
    assert [release.digest(released / name) for _, name in lines] == [digest for digest, _ in lines]


# locks


@EACH
def test_a_lock_pins_what_pyproject_toml_needs(name: str) -> None:
    assert list(locks.faults()) == []
    text = locks.path(name).read_text()
    pinned = {canonicalize_name(pin.name): pin for pin in locks.pins(text)}
    assert text.count("==") == len(pinned)
    assert text.count("--hash=") == sum(len(pin.hashes) for pin in pinned.values())
    for line in locks.needed(name)[1:]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)].version), line
    assert all(pin.hashes for pin in pinned.values())
    assert "://" not in text, "a lock names no server"
    assert "\n--only-binary :all:\n" in text
    assert ("torch" in pinned) is (name != "coordinator")


def test_all_parties_have_the_same_versions() -> None:
    versions: dict[str, set[str]] = {}
    for name in locks.LOCKS:
        for pin in locks.pins(locks.path(name).read_text()):
            versions.setdefault(pin.name, set()).add(pin.version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_locks_are_for_each_python_that_is_allowed() -> None:
    allowed = SpecifierSet(tomllib.loads((wheels.ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed] == list(locks.PYTHONS)


def test_a_lock_is_read_as_it_is_written() -> None:
    pins = [locks.Pin("a-b", "1.0.post1", "", "MIT", ("0" * 64, "1" * 64)),
            locks.Pin("c", "2", 'python_version < "3.12"', "BSD License, Public Domain", ("2" * 64,))]  # fmt: skip
    assert locks.pins("# head\n# needs x\n--only-binary :all:\n" + "".join(pin.lines for pin in pins)) == pins


@pytest.mark.parametrize(
    ("wheel", "targets"),
    [
        ("a-1-py3-none-any.whl", 8),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", 1),
        ("a-1-cp39-abi3-manylinux2014_aarch64.manylinux_2_17_aarch64.whl", 4),
        ("a-1-cp314-cp314t-manylinux_2_28_x86_64.whl", 0),
        ("a-1-cp312-cp312-musllinux_1_2_x86_64.whl", 0),
        ("a-1-cp312-cp312-win_amd64.whl", 0),
    ],
)
def test_a_wheel_is_kept_for_the_targets_that_it_fits(wheel: str, targets: int) -> None:
    assert len(locks._targets(wheel)) == targets


def test_a_package_without_a_wheel_for_a_target_is_named() -> None:
    file = {"url": "x/a-1-cp312-cp312-manylinux_2_28_x86_64.whl", "size": 1, "hashes": {"sha256": "0"}}
    with pytest.raises(SystemExit, match=r"a 1 has no wheel for 3\.11 on aarch64, .* 3\.14 on x86_64"):
        locks._pinned({"name": "a", "version": "1", "wheels": [file]})
    assert locks._pinned({"name": "a", "version": "1", "wheels": [file], "marker": "sys_platform == 'win32'"}) is None


# bills of materials


def invalid(bill: str) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)


@pytest.mark.slow
@EACH
def test_a_bill_of_materials_fits_its_schema_and_its_lock(name: str, released: Path) -> None:
    text = (released / f"{name}.cdx.json").read_text()
    assert invalid(text) is None
    bill, pins = json.loads(text), locks.pins(locks.path(name).read_text())
    assert [(part["name"], part["version"]) for part in bill["components"]] == [(pin.name, pin.version) for pin in pins]
    assert [tuple(one["content"] for one in part["hashes"]) for part in bill["components"]] == [
        pin.hashes for pin in pins
    ]
    assert all(part["licenses"] for part in bill["components"])
    (own,) = bill["metadata"]["component"]["hashes"]
    assert own["content"] == release.digest(next(released.glob("*.whl")))
    assert invalid(text.replace('"SHA-256"', '"SHA256"', 1)), "a slip of the pen would be found"


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("MIT", [{"expression": "MIT"}]),
        ("Apache-2.0 OR BSD-3-Clause", [{"expression": "Apache-2.0 OR BSD-3-Clause"}]),
        ("BSD License, Public Domain", [{"license": {"name": "BSD License, Public Domain"}}]),
    ],
)
def test_a_licence_is_an_expression_where_it_is_one(stated: str, found: object) -> None:
    assert locks.licences(locks.Pin("a", "1", "", stated, ())) == found


# faults, planted


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What is looked at before a release, outside of a repository."""
    for name in (
        "pyproject.toml",
        "CHANGELOG.md",
        "docs/reference/compatibility.md",
        *(f"locks/{n}.txt" for n in locks.LOCKS),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((wheels.ROOT / name).read_text())
    assert list(release.unready(tmp_path)) == []
    return tmp_path


def changed(tree: Path, before: str, after: str, name: str = "pyproject.toml") -> None:
    path = tree / name
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))


def test_a_lock_that_is_older_than_pyproject_toml_is_named_with_the_requirement(tree: Path) -> None:
    changed(tree, '"jinja2>=3.1.6"', '"jinja2>=3.1.7"')
    found = list(release.unready(tree))
    assert len(found) == 2 * len(locks.LOCKS)
    assert (
        "locks/coordinator.txt: expected what pyproject.toml needs, found jinja2>=3.1.6 in the lock, not in pyproject.toml"
        in found[0]
    )
    assert "found jinja2>=3.1.7 in pyproject.toml, not in the lock. Run `python tools/locks.py`" in found[1]


def test_a_requirement_of_an_extra_concerns_its_locks_alone(tree: Path) -> None:
    changed(tree, '"opacus>=1.6,<2"', '"opacus>=1.7,<2"')
    assert {line.partition(":")[0] for line in release.unready(tree)} == {"locks/institution-extras.txt"}


def test_another_python_wants_other_locks(tree: Path) -> None:
    changed(tree, 'requires-python = ">=3.11,<3.15"', 'requires-python = ">=3.11,<3.16"')
    assert any("found Python >=3.11,<3.16 in pyproject.toml" in line for line in release.unready(tree))


def test_a_lock_that_is_missing_or_lacks_a_hash_is_named(tree: Path) -> None:
    (tree / "locks" / "institution.txt").unlink()
    changed(tree, locks.pins(locks.path("coordinator").read_text())[0].hashes[0], "0", "locks/coordinator.txt")
    assert list(release.unready(tree)) == [
        f"locks/coordinator.txt: alembic has no hash. {locks.REMEDY}",
        f"locks/institution.txt is missing. {locks.REMEDY}",
    ]


@pytest.fixture
def handed_out(released: Path, tmp_path: Path) -> Path:
    """A release's folder whose lock pins its own wheel alone, so that pip needs no network."""
    folder = shutil.copytree(released, tmp_path / "release")
    lock = folder / "coordinator.txt"
    lock.write_text(lock.read_text()[lock.read_text().index("--find-links .") :])
    return folder


def refused(folder: Path) -> str:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-deps",
        "--no-index",
        "--require-hashes",
        "--ignore-installed",
    ]
    done = subprocess.run(
        [*command, "-r", str(folder / "coordinator.txt")], cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) is ("Would install" in done.stdout)
    return done.stderr if done.returncode else ""


@pytest.mark.slow
def test_a_wheel_with_another_byte_is_not_installed(handed_out: Path) -> None:
    assert refused(handed_out) == ""
    (wheel,) = handed_out.glob("*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    assert "DO NOT MATCH THE HASHES" in refused(handed_out)
    assert f"dictpfl=={release.version()}" in refused(handed_out)
    done = subprocess.run(
        ["sha256sum", "--check", release.SUMS], cwd=handed_out, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{wheel.name}: FAILED" in done.stdout


@pytest.mark.slow
def test_a_changed_hash_of_a_lock_is_refused(handed_out: Path) -> None:
    (wheel,) = handed_out.glob("*.whl")
    changed(handed_out, release.digest(wheel), "0" * 64, "coordinator.txt")
    assert "DO NOT MATCH THE HASHES" in refused(handed_out)
