"""What would be published: every file under one name, and an installation that hides no module of a user's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import locks, release, wheels


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return wheels.built(wheels.ROOT, tmp_path_factory.mktemp("built"))


@pytest.mark.parametrize("name", ["wheel", "wheel from sdist"])
def test_each_file_of_the_tree_is_in_the_wheel_under_one_name(archives: dict[str, Path], name: str) -> None:
    expected = wheels.tree()
    assert list(wheels.faults(archives[name], expected)) == []
    assert wheels.scripts(archives[name]) == {"dictpfl": "dictpfl.deploy.cli:main"}
    for file in (
        "py.typed",
        "server/coordinator.py",
        "deploy/containers/Dockerfile",
        "deploy/templates/report.html.j2",
    ):
        assert f"dictpfl/{file}" in expected


def test_a_file_too_many_or_too_few_is_a_fault(archives: dict[str, Path]) -> None:
    expected = wheels.tree()
    assert list(wheels.faults(archives["wheel"], expected | {"dictpfl/server/lost.py"})) == [
        "missing: dictpfl/server/lost.py"
    ]
    assert list(wheels.faults(archives["wheel"], expected - {"dictpfl/py.typed"})) == ["unexpected: dictpfl/py.typed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel from sdist", pytest.param("editable", marks=pytest.mark.nightly)])
def test_an_installation_has_one_name_and_hides_no_module_of_a_user(
    archives: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    if kind == "editable":
        (wheel,) = wheels.build(wheels.ROOT, tmp_path, "wheel:editable")
    else:
        wheel = archives[kind]
    python = wheels.environment(tmp_path / "venv", wheel)
    (own,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    assert not [name for name in ("client", "server", "common", "deploy", "tests", "tools") if (own / name).exists()]
    assert (own / "dictpfl").exists() == (kind != "editable")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "common.py").write_text("whose = 'mine'\n")
    said = _run(
        python, mine, "import common, dictpfl.common.arrays; print(common.whose, dictpfl.common.arrays.__name__)"
    )
    assert said == "mine dictpfl.common.arrays"
    for name in ("client", "server", "deploy"):
        assert _run(python, mine, f"from importlib.util import find_spec; print(find_spec({name!r}))") == "None"


def _run(python: Path, folder: Path, code: str) -> str:
    done = subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_tree_that_is_not_ready_is_told_why(tmp_path: Path) -> None:
    locked = (f"{locks.FOLDER}/{name}.txt" for name in locks.LOCKS)
    for name in ("pyproject.toml", "CHANGELOG.md", "docs/reference/compatibility.md", *locked):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((wheels.ROOT / name).read_text())
    assert list(release.unready(tmp_path)) == []  # no repository: nothing that is not committed
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace(f'version = "{release.version()}"', 'version = "9.0"'))
    version, changelog, page = release.unready(tmp_path)
    assert "semantic versioning" in version
    assert "CHANGELOG.md" in changelog
    assert "compatibility.md has no line of release 9.0" in page
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert "not committed" in list(release.unready(tmp_path))[-1]
