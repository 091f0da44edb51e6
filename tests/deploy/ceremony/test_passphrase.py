"""A new passphrase: everything opens under it, nothing under the old one, and no crash leaves a party locked out."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from ceremonies import PASSPHRASES, Ceremony
from typer.testing import CliRunner

import deploy.ceremony.cli
from client.epochs import Keyring
from client.site import SiteSettings
from common.errors import CeremonyError, PassphraseError
from deploy.ceremony import authority, custody
from deploy.ceremony.changing import CHANGE, finish_change
from deploy.ceremony.export import export_state
from deploy.ceremony.identity import open_identity
from deploy.ceremony.passphrase import change_passphrase
from deploy.cli import app

OLD, NEW = PASSPHRASES["berlin"], b"seven other words of berlin"


@pytest.fixture
def site(ceremony: Ceremony) -> Path:
    ceremony.join("berlin")
    place = ceremony.site("berlin")
    secret(place / "new", NEW)
    return place


def secret(path: Path, passphrase: bytes) -> Path:
    path.write_bytes(passphrase + b"\n")
    path.chmod(0o600)
    return path


def opens(site: Path, passphrase: bytes) -> bool:
    """Identity and federation key, both."""
    found = set()
    for attempt in (
        lambda: open_identity(site, passphrase),
        lambda: Keyring(site, SiteSettings.load(site), passphrase).key,
    ):
        try:
            attempt()
        except PassphraseError:
            found.add(False)
        else:
            found.add(True)
    assert len(found) == 1, "some of it under the one, some under the other"
    return found.pop()


def test_all_is_sealed_anew_and_nothing_old_is_left(site: Path) -> None:
    names = {path.name for path in site.rglob("*")}
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    assert change_passphrase(site, OLD, NEW, new_file=site / "new") == [
        "epochs/0001/federation.key.sealed", "identity.key",
    ]  # fmt: skip
    assert opens(site, NEW)
    assert not opens(site, OLD)
    assert {path.name for path in site.rglob("*")} == names
    sealed = [before[site / name] for name in ("identity.key", "epochs/0001/federation.key.sealed")]
    assert not [path for path in site.rglob("*") if path.is_file() and path.read_bytes() in sealed]
    # The process that trains finds it by itself.
    assert SiteSettings.load(site).passphrase_file == "new"  # noqa: S105 -- a file name
    assert Keyring(site, SiteSettings.load(site)).key is not None
    (log,) = custody.verify(site)
    assert log.entries[-1]["event"] == "passphrase changed"


def test_refusals_change_nothing(site: Path) -> None:
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    for old, new, new_file, said in (
        (NEW, OLD + b"!", site / "new", "wrong"),
        (OLD, OLD, site / "new", "is the old one"),
        (OLD, b"short", site / "new", "fewer than 12"),
        (OLD, NEW, None, "--new-passphrase-file"),
    ):
        with pytest.raises(PassphraseError, match=said):
            change_passphrase(site, old, new, new_file=new_file)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} | before == before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("fails_at", range(1, 12))
def test_a_change_that_dies_anywhere(site: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    """Every rename is a place to die at: of the files that are made ready, of their folder, and over the old ones."""
    renames = 0

    def dying(rename):
        def renamed(path: Path, target: Path) -> Path:
            nonlocal renames
            renames += 1
            if renames == fails_at:
                raise Killed
            return rename(path, target)

        return renamed

    finished = False
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying(Path.replace))
        patched.setattr(Path, "rename", dying(Path.rename))
        patched.setattr(shutil, "rmtree", lambda *_a, **_k: None)
        with suppress(Killed):
            change_passphrase(site, OLD, NEW, new_file=site / "new")
            finished = True
    finish_change(site)
    new = opens(site, NEW)
    assert new != opens(site, OLD)
    assert new or not finished
    assert SiteSettings.load(site).passphrase_file == ("new" if new else "passphrase")
    assert Keyring(site, SiteSettings.load(site)).key is not None
    assert not list(site.glob(f"{CHANGE}*"))
    assert custody.verify(site)


def test_whoever_opens_the_folder_next_finishes(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(deploy.ceremony.passphrase, "finish_change", lambda _folder: None)
        change_passphrase(site, OLD, NEW, new_file=site / "new")
    assert (site / CHANGE).is_dir()
    open_identity(site, NEW)
    assert not (site / CHANGE).exists()
    assert opens(site, NEW)


def test_a_disk_that_refuses(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(deploy.ceremony.passphrase, "write_private", full)
        with pytest.raises(CeremonyError, match=r"No space left.*the old passphrase holds"):
            change_passphrase(site, OLD, NEW, new_file=site / "new")
    assert opens(site, OLD)
    assert not list(site.glob(f"{CHANGE}*"))


def test_an_authority_goes_on_under_the_new_one(ceremony: Ceremony) -> None:
    ceremony.join("berlin")
    assert change_passphrase(ceremony.authority, PASSPHRASES["authority"], NEW) == ["federation.sealed", "identity.key"]
    state = ceremony.root / "state"
    export_state(ceremony.site("berlin"), OLD, state)
    with pytest.raises(PassphraseError):
        authority.rotate(ceremony.authority, PASSPHRASES["authority"], [state], ceremony.handout(2))
    assert authority.rotate(ceremony.authority, NEW, [state], ceremony.handout(2)).table.last.number == 2


# the commands


def run(*arguments: object, answers: str = "") -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(app, [str(a) for a in arguments], input=answers)
    return done.output, done.exception


def test_from_files(site: Path) -> None:
    output, error = run(
        "institution", "passphrase", "--folder", site, "--passphrase-file", site / "passphrase",
        "--new-passphrase-file", site / "new",
    )  # fmt: skip
    assert error is None
    assert "identity.key" in output
    assert "backups made before" in output
    assert opens(site, NEW)


def test_from_prompts(ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy.ceremony.cli, "_at_terminal", lambda: True)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    typed = "\n".join([PASSPHRASES["authority"].decode(), NEW.decode(), NEW.decode(), ""])
    output, error = run("authority", "passphrase", "--folder", ceremony.authority, answers=typed)
    assert error is None, output
    assert NEW.decode() not in output
    assert open_identity(ceremony.authority, NEW)


def test_from_credentials(ceremony: Ceremony, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    secret(tmp_path / "dictpfl-passphrase", PASSPHRASES["authority"])
    _, error = run("authority", "passphrase", "--folder", ceremony.authority)
    assert isinstance(error, PassphraseError)
    assert "dictpfl-new-passphrase" in str(error)
    secret(tmp_path / "dictpfl-new-passphrase", NEW)
    _, error = run("authority", "passphrase", "--folder", ceremony.authority)
    assert error is None
    assert open_identity(ceremony.authority, NEW)
