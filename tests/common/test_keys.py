"""Key files: modes, damage, fingerprints, silence about secrets; and writes that survive a crash."""

from __future__ import annotations

import base64
import json
import os
import stat
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

import common.files
from common.errors import CorruptError, DictPFLError, KeyFileError
from common.files import write_private
from common.keys import (
    FederationKey,
    identity_fingerprint,
    load_key,
    load_public,
    load_secret,
    make_key,
    owner_only,
    save_key,
)
from common.parameters import CKKSParameters
from common.settings import Encryption


@pytest.fixture
def path(tmp_path: Path, key: FederationKey) -> Path:
    save_key(key, tmp_path / "key.json")
    return tmp_path / "key.json"


@pytest.fixture(scope="module")
def pair() -> FederationKey:
    return make_key(CKKSParameters.choose(Encryption(profile="public_key", ring_degree=8192), 3))


def test_saved_and_loaded(path: Path, key: FederationKey) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path) == key
    assert list(path.parent.iterdir()) == [path]


def test_the_umask_does_not_matter(tmp_path: Path, key: FederationKey) -> None:
    before = os.umask(0)
    try:
        save_key(key, tmp_path / "k")
        owner_only(tmp_path / "folder")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o601, 0o660, 0o644, 0o777, 0o620])
def test_a_laxer_mode_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_key(path)


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o710, 0o777])
def test_a_laxer_folder_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 700"):
        owner_only(folder)
    folder.chmod(0o700)
    assert owner_only(folder) == folder


def test_a_key_is_never_overwritten(path: Path, key: FederationKey, parameters: CKKSParameters) -> None:
    with pytest.raises(KeyFileError, match="never overwritten"):
        save_key(make_key(parameters), path)
    assert load_key(path) == key


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot read"):
        load_key(tmp_path / "none")


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"format": "dictpfl-key-1"}', b'{"format": "x"}']
)
def test_no_key_file(tmp_path: Path, text: bytes) -> None:
    write_private(tmp_path / "k", text)
    with pytest.raises(KeyFileError):
        load_key(tmp_path / "k")


def tampered(path: Path, **changes: object) -> None:
    document = json.loads(path.read_bytes())
    write_private(path, json.dumps({**document, **changes}).encode())


def flipped(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[len(raw) // 2] ^= 1
    return base64.b64encode(bytes(raw)).decode()


def test_any_tampering_is_refused(path: Path) -> None:
    original = json.loads(path.read_bytes())
    smaller = {**original["parameters"], "capacity": 2}
    for changes in (
        {"secret": flipped(original["secret"])}, {"key_id": "00" * 16}, {"fingerprint": "00" * 32}, {"parameters": smaller},
        {"secret": original["secret"][:-4]}, {"secret": "@@@"}, {"key_id": "xy"}, {"secret": None}, {"fingerprint": ""},
    ):  # fmt: skip
        tampered(path, **changes)
        with pytest.raises(KeyFileError):
            load_key(path)
        tampered(path, **original)
    load_key(path)


def test_a_replaced_public_key_is_refused(tmp_path: Path, pair: FederationKey) -> None:
    save_key(pair, tmp_path / "k")
    tampered(tmp_path / "k", public=base64.b64encode(make_key(pair.parameters).public).decode())
    with pytest.raises(KeyFileError):
        load_key(tmp_path / "k")


def test_parameters_below_the_floor_are_refused_from_a_file(path: Path) -> None:
    document = json.loads(path.read_bytes())
    tampered(path, parameters={**document["parameters"], "ring_degree": 2048})
    with pytest.raises(DictPFLError):
        load_key(path)


def test_fingerprint_depends_on_everything(key: FederationKey, parameters: CKKSParameters) -> None:
    secret = bytearray(key.secret)
    secret[-1] ^= 1
    others = [
        replace(key, key_id=bytes(16)),
        replace(key, secret=bytes(secret)),
        replace(key, parameters=CKKSParameters.choose(Encryption(security=128), 3)),
        make_key(parameters),
    ]
    prints = {key.fingerprint, identity_fingerprint(parameters), *(other.fingerprint for other in others)}
    assert len(prints) == len(others) + 2
    assert {len(p) for p in prints} == {32}
    assert replace(key).fingerprint == key.fingerprint


def test_keys_differ_and_load(key: FederationKey, pair: FederationKey, parameters: CKKSParameters) -> None:
    assert make_key(parameters).secret != make_key(parameters).secret
    assert key.public == b""
    load_secret(key)
    load_secret(pair)
    load_public(pair)
    with pytest.raises(CorruptError):
        load_public(key)
    with pytest.raises(CorruptError):
        load_secret(replace(key, parameters=pair.parameters))


def test_neither_texts_nor_errors_tell_the_secret(path: Path, key: FederationKey, pair: FederationKey) -> None:
    said = [repr(key), str(key), f"{key}", repr(pair), repr([key]), repr({"k": pair})]
    document = json.loads(path.read_bytes())
    for changes in ({"secret": flipped(document["secret"])}, {"secret": document["secret"] + "@"}, {"public": 3}):
        tampered(path, **{**document, **changes})
        with pytest.raises(KeyFileError) as caught:
            load_key(path)
        said.append("".join(traceback.format_exception(caught.value)))
    for broken in (key.secret[:-1], key.secret[: len(key.secret) // 2], b""):
        with pytest.raises(CorruptError) as refused:
            load_secret(replace(key, secret=broken))
        said.append("".join(traceback.format_exception(refused.value)))
    parts = [key.secret[n : n + 12] for n in range(200, len(key.secret) - 12, 997)]
    for text in said:
        for part in parts:
            for spelled in (part.hex(), repr(part)[2:-1], base64.b64encode(part).decode()[:12]):
                assert spelled not in text


# -- files -----------------------------------------------------------------------------------------------


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
        patch.setattr(common.files.os, call, fail)
        with pytest.raises(type(error)):
            write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_synced_before_it_is_renamed_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*args: object, name: str = name, real: object = real) -> object:
            calls.append(name)
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(common.files.os, name, noted)
    write_private(tmp_path / "f", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_name_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_private(tmp_path / "none" / "f", b"x")
