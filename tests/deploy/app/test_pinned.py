"""The agreed app: built the same everywhere, installed read-only, and any change to it found."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dictpfl.common.errors import AppBundleError
from dictpfl.deploy.app import pinned
from dictpfl.deploy.app.bundle import build
from dictpfl.deploy.app.pinned import FAB, FILES, Mismatch
from dictpfl.deploy.operations import agreed as apps
from dictpfl.deploy.operations.task import Pin
from tests.support import ROOT


def archive(**files: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for name, text in files.items():
            target.writestr(name, text)
    return made.getvalue()


APP = archive(**{"client/app.py": "app = 1\n", "common/x.py": "", ".info/CONTENT": "manifest"})
AGREED = pinned.sha256_of(APP)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    pinned.install(tmp_path, APP)
    return tmp_path


def test_what_is_installed_is_the_bundle_read_only(home: Path) -> None:
    folder = pinned.verified(home, AGREED)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*.py")} == {"client/app.py", "common/x.py"}
    assert all(not stat.S_IMODE(path.stat().st_mode) & 0o222 for path in [folder, *folder.rglob("*"), home / FAB])
    assert not (folder / ".info").exists()
    pinned.install(home, APP)
    assert pinned.verified(home, AGREED) == folder


def append(home: Path) -> None:
    path = home / FILES / "client" / "app.py"
    path.chmod(0o600)
    path.write_text("app = 2\n")


def add(home: Path) -> None:
    (home / FILES / "client").chmod(0o700)
    (home / FILES / "client" / "more.py").write_text("")


def take_away(home: Path) -> None:
    (home / FILES / "common").chmod(0o700)
    (home / FILES / "common" / "x.py").unlink()


def another_bundle(home: Path) -> None:
    (home / FAB).chmod(0o600)
    (home / FAB).write_bytes(archive(**{"client/app.py": "app = 2\n"}))


def link(home: Path) -> None:
    """A link to other code, under the agreed name."""
    (home / FILES / "client").chmod(0o700)
    path = home / FILES / "client" / "app.py"
    path.unlink()
    (home / "other.py").write_text("app = 2\n")
    path.symlink_to(home / "other.py")


def no_bundle(home: Path) -> None:
    (home / FAB).unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (append, "altered .client/app.py"),
        (add, "altered .client/more.py"),
        (take_away, "altered .common/x.py"),
        (link, "altered .client/app.py"),
        (another_bundle, "app bundle refused"),
        (no_bundle, "no app is installed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_any_change_is_found(home: Path, change: Callable[[Path], None], says: str) -> None:
    change(home)
    with pytest.raises(Mismatch, match=says):
        pinned.verified(home, AGREED)
    with pytest.raises(AppBundleError, match=says):
        apps.installed(home, AGREED)
    pinned.install(home, APP)
    assert apps.installed(home, AGREED) == APP


def test_a_bundle_that_reaches_outside_of_itself(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match="outside of itself"):
        pinned.install(tmp_path / "home", archive(**{"../evil.py": ""}))
    assert not (tmp_path / "evil.py").exists()


def test_this_installation_builds_the_same_bytes_each_time(tmp_path: Path) -> None:
    first = build()
    assert first == build()
    assert apps.install_agreed(tmp_path / "home", "") == pinned.sha256_of(first)
    assert apps.install_agreed(tmp_path / "home", pinned.sha256_of(first)) == pinned.sha256_of(first)
    names = set(pinned.members(first))
    assert {
        f"dictpfl/{name}" for name in ("__init__.py", "client/app.py", "server/app.py", "common/errors.py")
    } <= names
    assert {name for name in names if not name.startswith("dictpfl/")} == {"pyproject.toml"}
    assert not [name for name in names if name.startswith("dictpfl/deploy")]
    with pytest.raises(AppBundleError, match="agreed on was 0000"):
        apps.install_agreed(tmp_path / "other", "0" * 64)
    assert not (tmp_path / "other" / FAB).exists()


def test_a_task_refuses_another_bundle_and_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pin = Pin(home, AGREED)
    assert pin.check_or_refuse(APP) == home / FILES
    assert pin.refusal is None
    other = archive(**{"client/app.py": "app = 2\n"})
    pin.check_or_refuse(other)
    assert "the one that the coordinator sends" in (pin.refusal or "")
    assert "REFUSED" in capsys.readouterr().err
    with pytest.raises(Mismatch):
        Pin(home, AGREED).check_or_raise(other)


def test_a_task_refuses_an_altered_installation(home: Path) -> None:
    append(home)
    pin = Pin(home, AGREED)
    pin.check_or_refuse(APP)
    assert "altered" in (pin.refusal or "")


RUNS = """
import json, sys
from pathlib import Path
from dictpfl.deploy.operations import task
early = [name for name in sys.modules if name.startswith(("dictpfl.common", "dictpfl.client", "dictpfl.server"))]
home, agreed, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
pin = task.Pin(home, agreed)
content = (home / "agreed.fab").read_bytes()
if kind == "server":
    pin.check_or_raise(content)
    import dictpfl.server.app
else:
    pin.check_or_refuse(content)
    pin.client_app()
import dictpfl.deploy.cli
ours = {n: m.__file__ for n, m in sys.modules.items() if n.startswith("dictpfl.") and getattr(m, "__file__", None)}
print(json.dumps({"early": early, "ours": ours}))
"""


@pytest.mark.parametrize("kind", ["server", "client"])
def test_what_a_task_runs_is_the_agreed_app_and_not_the_installation(tmp_path: Path, kind: str) -> None:
    """Every module of the three rooms that travel comes from the agreed files, in a process like that of a task."""
    home = tmp_path / "flower"
    home.mkdir()
    content = build()
    pinned.install(home, content)
    done = subprocess.run(
        [sys.executable, "-c", RUNS, str(home), pinned.sha256_of(content), kind],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["early"] == [], "nothing of the app may be imported before it is checked"
    agreed, installed = str(home / FILES), str(ROOT)
    loaded = {name: path for name, path in told["ours"].items() if name.split(".")[1] in ("common", kind)}
    assert len(loaded) > 5
    assert not {name: path for name, path in loaded.items() if not path.startswith(f"{agreed}/dictpfl/")}
    assert told["ours"]["dictpfl.deploy.operations.task"].startswith(installed), (
        "what does not travel is the installation's"
    )
