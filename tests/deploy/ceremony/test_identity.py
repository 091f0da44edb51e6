"""Identities, passphrases and secrets at rest."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from hypothesis import given
from hypothesis import strategies as st

import dictpfl.client.keys.vault
from dictpfl.client.keys.vault import open_at_rest, passphrase_from_file, seal_at_rest, stored_passphrase
from dictpfl.common.errors import IdentityError, KeyFileError, PassphraseError
from dictpfl.common.fingerprint import matches, spoken
from dictpfl.deploy.ceremony.identity import PublicIdentity, Role, make_identity, open_identity, public_of

PASSPHRASE = b"correct horse battery staple"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_identity(tmp_path / "berlin", "berlin", Role.INSTITUTION, PASSPHRASE)
    return tmp_path / "berlin"


def test_what_an_identity_leaves_behind(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"identity.key", "identity.pub", "node.key", "node.pub"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_private_keys_do_not_lie_in_clear(folder: Path) -> None:
    identity = open_identity(folder, PASSPHRASE)
    for private in (identity.receiving, identity.signing):
        raw = private.private_bytes_raw()
        for path in folder.iterdir():
            assert raw not in path.read_bytes()
            assert raw.hex().encode() not in path.read_bytes()
    assert raw.hex() not in repr(identity)


def test_flower_reads_the_node_key(folder: Path) -> None:
    """As flower-supernode and `flwr supernode register` do."""
    private = load_ssh_private_key((folder / "node.key").read_bytes(), None)
    public = load_ssh_public_key((folder / "node.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert private.public_key() == public
    assert public_of(folder).node + "\n" == (folder / "node.pub").read_text()


def test_an_identity_is_never_replaced(folder: Path) -> None:
    with pytest.raises(IdentityError, match="never replaced"):
        make_identity(folder, "berlin", Role.INSTITUTION, PASSPHRASE)


def test_a_lost_private_key_does_not_cost_the_public_one(folder: Path) -> None:
    """It is what others know the party by, and what a restored backup must fit."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "identity.key"}
    (folder / "identity.key").unlink()
    with pytest.raises(IdentityError, match=r"identity\.pub without identity\.key.*restore"):
        make_identity(folder, "berlin", Role.INSTITUTION, PASSPHRASE)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_lax_folder(folder: Path) -> None:
    folder.chmod(0o750)
    with pytest.raises(KeyFileError, match="expected 0700"):
        open_identity(folder, PASSPHRASE)


def test_no_identity(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="holds no identity"):
        open_identity(tmp_path, PASSPHRASE)


def test_halves_of_two_identities(folder: Path, tmp_path: Path) -> None:
    make_identity(tmp_path / "oslo", "oslo", Role.INSTITUTION, PASSPHRASE)
    (folder / "identity.pub").write_bytes((tmp_path / "oslo/identity.pub").read_bytes())
    with pytest.raises(IdentityError, match="not the public half"):
        open_identity(folder, PASSPHRASE)


@pytest.mark.parametrize("name", ["", "a/b", "..", "-rf", "a b", "é", "a" * 64, "a\n"])
def test_names_that_are_no_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="no name for a party"):
        make_identity(tmp_path / "x", name, Role.INSTITUTION, PASSPHRASE)


def test_every_change_of_a_public_identity_is_noticed(folder: Path) -> None:
    path = folder / "identity.pub"
    document = json.loads(path.read_text())
    changes = {"name": "oslo", "role": "authority", "receiving": "11" * 32, "signing": "22" * 32, "node": "", "more": 1}
    for name, value in changes.items():
        path.write_text(json.dumps({**document, name: value}))
        with pytest.raises(IdentityError):
            PublicIdentity.load(path)
    for text in ("", "[]", "{}", "null", "x" * 20_000):
        path.write_text(text)
        with pytest.raises(IdentityError):
            PublicIdentity.load(path)


def test_an_identity_nested_without_end(tmp_path: Path) -> None:
    """It comes by mail, from whoever wrote it."""
    path = tmp_path / "identity.pub"
    path.write_bytes(b"[" * 65_536)
    with pytest.raises(IdentityError, match="cannot read the identity"):
        PublicIdentity.load(path)


# fingerprints


def test_the_published_example_of_proquints() -> None:
    """127.0.0.1 and 63.84.220.193 from arXiv:0901.4016."""
    assert spoken(bytes([127, 0, 0, 1] * 4)).startswith("lusab-babad-lusab-babad")
    assert spoken(bytes([63, 84, 220, 193] * 4)).startswith("gutih-tugad")


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_fingerprint_matches_itself_only(one: bytes, other: bytes) -> None:
    for said in (spoken(one), spoken(one).replace("-", " ").upper(), one.hex(), one.hex().upper()):
        assert matches(one, said)
        assert matches(other, said) == (one == other)


@pytest.mark.parametrize(
    "said", ["", "lusab", spoken(bytes(32))[:-1], "00" * 16, "zz" * 32, spoken(bytes(32)) + " babab"]
)
def test_a_part_of_a_fingerprint_proves_nothing(said: str) -> None:
    with pytest.raises(IdentityError, match="in full"):
        matches(bytes(32), said)


# secrets at rest


def test_sealed_and_opened_at_the_true_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictpfl.client.keys.vault, "_COST", {"iterations": 3, "lanes": 4, "memory_kib": 65536})
    sealed = seal_at_rest(b"secret", PASSPHRASE, "test")
    assert json.loads(sealed.split(b"\n")[0])["memory_kib"] == 65536
    assert open_at_rest(sealed, PASSPHRASE, "test", tmp_path) == b"secret"
    cheap = sealed.replace(b'"memory_kib":65536', b'"memory_kib":64')
    with pytest.raises(KeyFileError, match="no file sealed"):
        open_at_rest(cheap, PASSPHRASE, "test", tmp_path)


def test_the_same_secret_is_never_sealed_alike() -> None:
    assert seal_at_rest(b"secret", PASSPHRASE, "test") != seal_at_rest(b"secret", PASSPHRASE, "test")


def test_another_passphrase_or_purpose(tmp_path: Path) -> None:
    sealed = seal_at_rest(b"secret", PASSPHRASE, "test")
    with pytest.raises(PassphraseError, match="wrong, or the file was altered"):
        open_at_rest(sealed, PASSPHRASE + b"!", "test", tmp_path)
    with pytest.raises(KeyFileError, match="'other'"):
        open_at_rest(sealed, PASSPHRASE, "other", tmp_path)


def test_a_cost_that_would_stop_the_machine(tmp_path: Path) -> None:
    sealed = seal_at_rest(b"secret", PASSPHRASE, "test")
    head = json.loads(sealed.split(b"\n")[0])
    for name in ("iterations", "lanes", "memory_kib"):
        dear = json.dumps({**head, name: 10**9}).encode() + b"\n" + sealed.split(b"\n", 1)[1]
        with pytest.raises(KeyFileError):
            open_at_rest(dear, PASSPHRASE, "test", tmp_path)


def test_every_altered_byte_of_a_sealed_file(tmp_path: Path) -> None:
    sealed = seal_at_rest(b"secret", PASSPHRASE, "test")
    for at in range(len(sealed) - 1):
        altered = bytearray(sealed)
        altered[at] ^= 1
        try:
            opened = open_at_rest(bytes(altered), PASSPHRASE, "test", tmp_path)
        except (KeyFileError, PassphraseError):
            continue
        assert opened == b"secret"  # unused bits at the end of the base64 text


def test_weak_passphrases_are_refused() -> None:
    with pytest.raises(PassphraseError, match="fewer than 12"):
        seal_at_rest(b"secret", b"short", "test")


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o700, False)]
)
def test_a_passphrase_file_is_its_owners_alone(mode: int, good: bool, tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE + b"\nmore\n")
    path.chmod(mode)
    if good:
        assert passphrase_from_file(path) == PASSPHRASE
    else:
        with pytest.raises(PassphraseError, match=f"has mode {mode:04o}"):
            passphrase_from_file(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"  \nsecond line\n"])
def test_an_empty_passphrase_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(PassphraseError, match="empty"):
        passphrase_from_file(path)


def test_where_a_passphrase_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert stored_passphrase(None) is None
    with pytest.raises(PassphraseError, match="cannot read"):
        stored_passphrase(tmp_path / "nothing")
    (tmp_path / "dictpfl-passphrase").write_bytes(PASSPHRASE)
    (tmp_path / "dictpfl-passphrase").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert stored_passphrase(None) == stored_passphrase(tmp_path / "nothing") == PASSPHRASE, "the credential first"
    (tmp_path / "dictpfl-passphrase").chmod(0o444)
    with pytest.raises(PassphraseError, match="mode 0444"):
        stored_passphrase(None)
