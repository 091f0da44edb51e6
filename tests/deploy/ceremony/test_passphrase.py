"""A new passphrase: everything opens under it, nothing under the old one, and no crash leaves a party locked out."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dictpfl.deploy.ceremony.asking
from dictpfl.client.folder import InstitutionSettings
from dictpfl.client.keys.epochs import Keyring
from dictpfl.common.errors import CeremonyError, PassphraseError
from dictpfl.deploy.ceremony import authority, custody
from dictpfl.deploy.ceremony.changing import CHANGE, finish_change
from dictpfl.deploy.ceremony.export import export_state
from dictpfl.deploy.ceremony.identity import open_identity
from dictpfl.deploy.ceremony.passphrase import change_passphrase
from dictpfl.deploy.cli import app
from tests.support.ceremonies import PASSPHRASES, Ceremony

OLD, NEW = PASSPHRASES["berlin"], b"seven other words of berlin"


@pytest.fixture
def institution(ceremony: Ceremony) -> Path:
    ceremony.join("berlin")
    place = ceremony.home("berlin")
    secret(place / "new", NEW)
    return place


def secret(path: Path, passphrase: bytes) -> Path:
    path.write_bytes(passphrase + b"\n")
    path.chmod(0o600)
    return path


def opens(institution: Path, passphrase: bytes) -> bool:
    """Identity and federation key, both."""
    found = set()
    for attempt in (
        lambda: open_identity(institution, passphrase),
        lambda: Keyring(institution, InstitutionSettings.load(institution), passphrase).key,
    ):
        try:
            attempt()
        except PassphraseError:
            found.add(False)
        else:
            found.add(True)
    assert len(found) == 1, "some of it under the one, some under the other"
    return found.pop()


def test_all_is_sealed_anew_and_nothing_old_is_left(institution: Path) -> None:
    names = {path.name for path in institution.rglob("*")}
    before = {path: path.read_bytes() for path in institution.rglob("*") if path.is_file()}
    assert change_passphrase(institution, OLD, NEW, new_file=institution / "new") == [
        "epochs/0001/federation.key.sealed", "epochs/0001/peers.key.sealed", "identity.key",
    ]  # fmt: skip
    assert opens(institution, NEW)
    assert not opens(institution, OLD)
    assert {path.name for path in institution.rglob("*")} == names
    sealed = [before[institution / name] for name in ("identity.key", "epochs/0001/federation.key.sealed")]
    assert not [path for path in institution.rglob("*") if path.is_file() and path.read_bytes() in sealed]
    # The process that trains finds it by itself.
    assert InstitutionSettings.load(institution).passphrase_file == "new"  # noqa: S105 -- a file name
    assert Keyring(institution, InstitutionSettings.load(institution)).key is not None
    (log,) = custody.verify(institution)
    assert log.entries[-1]["event"] == "passphrase changed"


def test_refusals_change_nothing(institution: Path) -> None:
    before = {path: path.read_bytes() for path in institution.rglob("*") if path.is_file()}
    for old, new, new_file, said in (
        (NEW, OLD + b"!", institution / "new", "wrong"),
        (OLD, OLD, institution / "new", "is the old one"),
        (OLD, b"short", institution / "new", "fewer than 12"),
        (OLD, NEW, None, "--new-passphrase-file"),
    ):
        with pytest.raises(PassphraseError, match=said):
            change_passphrase(institution, old, new, new_file=new_file)
    assert {path: path.read_bytes() for path in institution.rglob("*") if path.is_file()} | before == before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("fails_at", range(1, 12))
def test_a_change_that_dies_anywhere(institution: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
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
            change_passphrase(institution, OLD, NEW, new_file=institution / "new")
            finished = True
    finish_change(institution)
    new = opens(institution, NEW)
    assert new != opens(institution, OLD)
    assert new or not finished
    assert InstitutionSettings.load(institution).passphrase_file == ("new" if new else "passphrase")
    assert Keyring(institution, InstitutionSettings.load(institution)).key is not None
    assert not list(institution.glob(f"{CHANGE}*"))
    assert custody.verify(institution)


def test_whoever_opens_the_folder_next_finishes(institution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(dictpfl.deploy.ceremony.passphrase, "finish_change", lambda _folder: None)
        change_passphrase(institution, OLD, NEW, new_file=institution / "new")
    assert (institution / CHANGE).is_dir()
    open_identity(institution, NEW)
    assert not (institution / CHANGE).exists()
    assert opens(institution, NEW)


def test_a_disk_that_refuses(institution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(dictpfl.deploy.ceremony.passphrase, "write_private", full)
        with pytest.raises(CeremonyError, match=r"No space left.*the old passphrase holds"):
            change_passphrase(institution, OLD, NEW, new_file=institution / "new")
    assert opens(institution, OLD)
    assert not list(institution.glob(f"{CHANGE}*"))


def test_an_authority_goes_on_under_the_new_one(ceremony: Ceremony) -> None:
    ceremony.join("berlin")
    assert change_passphrase(ceremony.authority, PASSPHRASES["authority"], NEW) == ["federation.sealed", "identity.key"]
    state = ceremony.root / "state"
    export_state(ceremony.home("berlin"), OLD, state)
    with pytest.raises(PassphraseError):
        authority.rotate(ceremony.authority, PASSPHRASES["authority"], [state], ceremony.handout(2))
    assert authority.rotate(ceremony.authority, NEW, [state], ceremony.handout(2)).table.last.number == 2


# the commands


def run(*arguments: object, answers: str = "") -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(app, [str(a) for a in arguments], input=answers)
    return done.output, done.exception


def test_from_files(institution: Path) -> None:
    output, error = run(
        "institution", "passphrase", "--folder", institution, "--passphrase-file", institution / "passphrase",
        "--new-passphrase-file", institution / "new",
    )  # fmt: skip
    assert error is None
    assert "identity.key" in output
    assert "backups made before" in output
    assert opens(institution, NEW)


def test_from_prompts(ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictpfl.deploy.ceremony.asking, "at_terminal", lambda: True)
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
