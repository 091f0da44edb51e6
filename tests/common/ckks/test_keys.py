"""Key files: modes, damage, fingerprints, silence about secrets."""

from __future__ import annotations

import base64
import json
import os
import stat
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from dictpfl.common.ckks.keys import (
    FederationKey,
    identity_fingerprint,
    load_key,
    load_secret,
    make_key,
    save_key,
)
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.errors import CorruptError, DictPFLError, KeyFileError
from dictpfl.common.files import owner_only, write_private
from dictpfl.common.protection import Encryption


@pytest.fixture
def path(tmp_path: Path, key: FederationKey) -> Path:
    save_key(key, tmp_path / "key.json")
    return tmp_path / "key.json"


@pytest.fixture(scope="module")
def larger() -> FederationKey:
    return make_key(CKKSParameters.choose(Encryption(ring_degree=8192), 3))


def test_saved_and_loaded(path: Path, key: FederationKey) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path) == key
    assert list(path.parent.iterdir()) == [path]


def test_the_umask_does_not_matter(tmp_path: Path, key: FederationKey) -> None:
    before = os.umask(0)
    try:
        save_key(key, tmp_path / "k")
        owner_only(tmp_path / "party" / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "party" / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "party").stat().st_mode) == 0o700, "made on the way: a party's folder, as a rule"


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


def test_a_public_key_is_refused(path: Path) -> None:
    tampered(path, public=base64.b64encode(b"a key").decode())
    with pytest.raises(KeyFileError, match="docs/decisions/0030"):
        load_key(path)


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


def test_keys_differ_and_load(key: FederationKey, larger: FederationKey, parameters: CKKSParameters) -> None:
    assert make_key(parameters).secret != make_key(parameters).secret
    load_secret(key)
    load_secret(larger)
    with pytest.raises(CorruptError):
        load_secret(replace(key, parameters=larger.parameters))


def test_neither_texts_nor_errors_tell_the_secret(path: Path, key: FederationKey, larger: FederationKey) -> None:
    said = [repr(key), str(key), f"{key}", repr(larger), repr([key]), repr({"k": larger})]
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


def test_digests_of_parameters_and_fingerprints_of_keys_are_those_of_every_release_of_protocol_4() -> None:
    for capacity, encryption, digest, fingerprint in (
        (
            3, Encryption(), "06cc52d4c337361e4624bfa515f0922a4b7f5c23c4f2747901f17d933d3c743c",
            "c9f116f3470861f1433fbda111d371708d203c2777e783c2800ec31edfed2d0b",
        ),
        (
            10, Encryption(ring_degree=8192, security=128), "b60b9575e6434605649cf0ce297810da2518f549344ef83ac39ee7481d533d23",
            "b2b88206cc977adc25b33cf946934b3ba60890bdb815a573ca662349e2914344",
        ),
    ):  # fmt: skip
        parameters = CKKSParameters.choose(encryption, capacity)
        assert parameters.digest.hex() == digest
        assert list(parameters.to_json())[4:] == ["word_bits", "capacity", "profile", "security"]
        assert FederationKey(parameters, bytes(16), b"secret").fingerprint.hex() == fingerprint


def test_the_seed_of_an_epoch_is_bound_into_the_fingerprint(tmp_path: Path, key: FederationKey) -> None:
    seeded = replace(key, seed=bytes(range(32)))
    save_key(seeded, tmp_path / "seeded.key")
    assert load_key(tmp_path / "seeded.key") == seeded
    assert len({key.fingerprint, seeded.fingerprint, replace(key, seed=bytes(32)).fingerprint}) == 3
    assert bytes(range(32)).hex() not in repr(seeded)
    document = json.loads((tmp_path / "seeded.key").read_bytes())
    for changed in ("", "00" * 32, document["seed"][:-2], "no seed"):
        tampered(tmp_path / "seeded.key", **{**document, "seed": changed})
        with pytest.raises(KeyFileError):
            load_key(tmp_path / "seeded.key")


@pytest.mark.parametrize("length", [1, 31, 33])
def test_a_seed_of_another_length_is_refused_though_its_fingerprint_fits(
    length: int, tmp_path: Path, key: FederationKey
) -> None:
    save_key(replace(key, seed=bytes(length)), tmp_path / "short.key")
    with pytest.raises(KeyFileError, match=f"a seed of {length} bytes, expected 32"):
        load_key(tmp_path / "short.key")
