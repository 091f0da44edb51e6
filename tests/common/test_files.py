"""Writes that survive a crash: private, whole, synced, or not at all; locks; modes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import dictpfl.common.files
from dictpfl.common.errors import KeyFileError
from dictpfl.common.files import (
    exposed_mode,
    is_locked,
    lock,
    lock_if_free,
    locked,
    replace_private,
    require_private,
    write_private,
)


def test_written_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_private(path, b"old")
    path.chmod(0o644)
    write_private(path, b"new" * 100_000)
    assert path.read_bytes() == b"new" * 100_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


class Crash(BaseException):
    """Not an Exception: as a signal or the interpreter's end would be."""


@pytest.mark.parametrize("error", [OSError(28, "no space left"), Crash()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "f"
    write_private(path, b"old")

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(dictpfl.common.files.os, call, fail)
        with pytest.raises(type(error)):
            write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named_as_its_owner_named_it(tmp_path: Path) -> None:
    """A full disk named no file, a missing folder one with a random ending."""
    path = tmp_path / "report.html"

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        replace_private(path, full)
    assert (caught.value.filename, caught.value.filename2) == (str(path), None)
    path.mkdir()
    for place, kind in ((path, IsADirectoryError), (tmp_path / "missing" / "f", FileNotFoundError)):
        with pytest.raises(kind) as refused:
            write_private(place, b"")
        assert (refused.value.filename, refused.value.filename2) == (str(place), None)


def test_what_another_file_lacks_is_said_of_that_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        replace_private(
            tmp_path / "copy", lambda made: shutil.copyfileobj((tmp_path / "source").open("rb"), made.open("wb"))
        )
    assert caught.value.filename == str(tmp_path / "source")


def test_synced_before_it_is_renamed_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*args: object, name: str = name, real: object = real) -> object:
            calls.append(name)
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(dictpfl.common.files.os, name, noted)
    write_private(tmp_path / "f", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_name_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_private(tmp_path / "none" / "f", b"x")


def test_a_lock_is_held_until_its_descriptor_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock(path)
    assert lock_if_free(path) is None
    os.close(held)
    again = lock_if_free(path)
    assert again is not None
    os.close(again)
    assert path.stat().st_mode & 0o777 == 0o600


def test_who_looks_at_a_lock_keeps_nobody_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    os.close(lock(path))
    assert not is_locked(path)
    looking = lock(path)
    monkeypatch.setattr("time.sleep", lambda _: os.close(looking))  # as `is_locked` lets go
    held = lock_if_free(path)
    assert held is not None
    assert is_locked(path)
    os.close(held)


def test_what_is_locked_by_name_is_free_again_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path, "join"):
            assert lock_if_free(tmp_path / ".join.lock") is None
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    descriptor = lock_if_free(tmp_path / ".join.lock")
    assert descriptor is not None
    os.close(descriptor)


@pytest.mark.parametrize(
    ("mode", "refused", "said"),
    [(0o600, 0o077, ""), (0o640, 0o077, "0640"), (0o604, 0o077, "0604"), (0o440, 0o137, ""), (0o500, 0o177, "0500")],
)
def test_a_mode_is_said_where_it_lets_others_in(mode: int, refused: int, said: str) -> None:
    assert exposed_mode(0o100000 | mode, refused) == said


def test_a_command_in_a_message_works_as_it_is_typed(tmp_path: Path) -> None:
    path = tmp_path / "klinik süd's key; 1"
    path.write_bytes(b"key")
    path.chmod(0o644)
    with pytest.raises(KeyFileError) as refused:
        require_private(path)
    command = str(refused.value).split("Run `")[1].split("`, and")[0]
    subprocess.run(["sh", "-c", command], check=True)
    assert require_private(path) == path
