"""Invitations: one signed file is all that a site needs, and nothing is made of one that is not the authority's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dictpfl.common.errors import (
    AppBundleError,
    BundleError,
    CertificateError,
    ConfigError,
    DictPFLError,
    IdentityError,
    PassphraseError,
)
from dictpfl.deploy.ceremony.fingerprint import spoken
from dictpfl.deploy.ceremony.identity import (
    PRIVATE,
    PUBLIC,
    PublicIdentity,
    Role,
    canonical,
    make_identity,
    open_identity,
    public_of,
)
from dictpfl.deploy.ceremony.pinning import pinned
from dictpfl.deploy.operations.certificates import CA, try_out
from dictpfl.deploy.operations.inviting import Invitation, accept, invite
from dictpfl.deploy.operations.settings import NodeSettings

PASSPHRASE = b"correct horse battery"
APP, ADDRESS = "ab" * 32, "federation.example.org:443"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a coordinator's certificate and an invitation."""
    folder = tmp_path_factory.mktemp("network")
    make_identity(folder / "authority", "ministry", Role.AUTHORITY, PASSPHRASE)
    try_out(folder / "tls", ["federation.example.org"])
    invite(
        folder / "authority", PASSPHRASE, folder / "invitation", coordinator=ADDRESS, ca=folder / "tls" / CA, app=APP
    )
    return folder


@pytest.fixture
def words(made: Path) -> str:
    return spoken(public_of(made / "authority").fingerprint)


def unasked() -> bytes:
    raise AssertionError("the passphrase was asked for")


def test_who_accepts_knows_whom_to_trust_and_where_to_connect(made: Path, words: str, tmp_path: Path) -> None:
    home = tmp_path / "berlin"
    own = accept(home, "berlin", lambda: PASSPHRASE, made / "invitation", app=APP, said=words)
    assert own == PublicIdentity.load(home / PUBLIC)
    assert (own.role, own.name) == (Role.INSTITUTION, "berlin")
    assert pinned(home) == public_of(made / "authority")
    settings = NodeSettings.load(home)
    assert settings.coordinator == ADDRESS
    assert (home / settings.ca).read_text() == (made / "tls" / CA).read_text()
    assert (home.stat().st_mode & 0o077) == (home / PRIVATE).stat().st_mode & 0o077 == 0


def test_a_newer_invitation_brings_a_new_address_and_certificate(made: Path, words: str, tmp_path: Path) -> None:
    home = tmp_path / "berlin"
    first = accept(home, "berlin", lambda: PASSPHRASE, made / "invitation", app=APP, said=words)
    try_out(tmp_path / "tls", ["other.example.org"])
    newer, elsewhere = tmp_path / "newer", "other.example.org:8443"
    invite(made / "authority", PASSPHRASE, newer, coordinator=elsewhere, ca=tmp_path / "tls" / CA, app=APP)
    assert accept(home, None, unasked, newer, app=APP) == first  # whom to trust is known: nothing is asked
    assert NodeSettings.load(home).coordinator == elsewhere
    assert (home / CA).read_text() == (tmp_path / "tls" / CA).read_text()


def test_no_single_flipped_bit_is_accepted(made: Path) -> None:
    data = (made / "invitation").read_bytes()
    again = made / "flipped"
    for bit in range(0, 8 * len(data), 7):  # each bit of a byte in turn
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        again.write_bytes(flipped)
        try:
            found = Invitation.load(again)
        except DictPFLError:
            continue
        assert found == Invitation.load(made / "invitation"), bit  # between the fields


def test_another_authority_is_refused(made: Path, words: str, tmp_path: Path) -> None:
    make_identity(tmp_path / "other", "ministry", Role.AUTHORITY, PASSPHRASE)
    ca, theirs = made / "tls" / CA, tmp_path / "theirs"
    invite(tmp_path / "other", PASSPHRASE, theirs, coordinator=ADDRESS, ca=ca, app=APP)
    home = tmp_path / "berlin"
    with pytest.raises(BundleError, match="not by the authority whose fingerprint was given"):
        accept(home, "berlin", unasked, theirs, app=APP, said=words)
    with pytest.raises(BundleError, match="nobody confirmed"):
        accept(home, "berlin", unasked, theirs, app=APP)
    assert not home.exists()
    accept(home, "berlin", lambda: PASSPHRASE, made / "invitation", app=APP, said=words)
    with pytest.raises(BundleError, match="the authority of"):
        accept(home, None, unasked, theirs, app=APP)


def test_a_signature_of_somebody_else_is_refused(made: Path, tmp_path: Path) -> None:
    facts = json.loads((made / "invitation").read_bytes())
    facts["coordinator"] = "evil.example.org:443"
    (tmp_path / "altered").write_text(json.dumps(facts))
    with pytest.raises(IdentityError, match="was altered"):
        Invitation.load(tmp_path / "altered")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": "dictpfl-invitation-2"}, r"of format 'dictpfl-invitation-2', this release reads 'dictpfl-invitation-1': another release"),
        ({"proxy": "http://proxy:3128"}, r"has proxy, which this release does not know: another release"),
    ],
)  # fmt: skip
def test_what_a_later_release_wrote_and_signed_is_told_so_and_not_misread(
    changed: dict[str, str], said: str, made: Path, words: str, tmp_path: Path
) -> None:
    authority = open_identity(made / "authority", PASSPHRASE)
    facts = {**Invitation.load(made / "invitation").facts(), **changed}
    facts["signature"] = authority.sign(b"dictpfl invitation 1\n" + canonical(facts)).hex()
    (tmp_path / "later").write_text(json.dumps(facts))
    with pytest.raises(IdentityError, match=said):
        accept(tmp_path / "berlin", "berlin", unasked, tmp_path / "later", app=APP, said=words)
    assert not (tmp_path / "berlin").exists()


def test_what_does_not_fit_changes_nothing(made: Path, words: str, tmp_path: Path) -> None:
    home = tmp_path / "berlin"
    with pytest.raises(AppBundleError, match="install the release that they have"):
        accept(home, "berlin", unasked, made / "invitation", app="cd" * 32, said=words)
    with pytest.raises(IdentityError, match="--name"):
        accept(home, None, unasked, made / "invitation", app=APP, said=words)
    with pytest.raises(PassphraseError):
        accept(home, "berlin", lambda: b"short", made / "invitation", app=APP, said=words)
    assert not (home / PRIVATE).exists()
    accept(home, "berlin", lambda: PASSPHRASE, made / "invitation", app=APP, said=words)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(IdentityError, match="is the folder of the institution berlin"):
        accept(home, "kyoto", unasked, made / "invitation", app=APP)
    with pytest.raises(IdentityError, match="is the folder of the authority ministry"):
        accept(made / "authority", "berlin", unasked, made / "invitation", app=APP)
    assert before == {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "address",
    [
        "federation.example.org",
        ":443",
        "a:0",
        "a:65536",
        "a:b",
        "https://a:443",
        "a b:443",
        "a/b:443",
        "2001:db8::1:443",
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        invite(made / "authority", PASSPHRASE, tmp_path / "out", coordinator=address, ca=made / "tls" / CA, app=APP)
    assert not (tmp_path / "out").exists()


def test_who_may_invite_with_what(made: Path, words: str, tmp_path: Path) -> None:
    accept(tmp_path / "berlin", "berlin", lambda: PASSPHRASE, made / "invitation", app=APP, said=words)
    with pytest.raises(ConfigError, match="only an authority invites"):
        invite(tmp_path / "berlin", PASSPHRASE, tmp_path / "out", coordinator=ADDRESS, ca=made / "tls" / CA, app=APP)
    for ca in (made / "tls" / "nothing.pem", made / "authority" / PUBLIC):
        with pytest.raises(CertificateError):
            invite(made / "authority", PASSPHRASE, tmp_path / "out", coordinator=ADDRESS, ca=ca, app=APP)
    assert not (tmp_path / "out").exists()


def test_a_private_key_is_sent_to_nobody(made: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes((made / "tls" / "server.key").read_bytes() + (made / "tls" / CA).read_bytes())
    with pytest.raises(CertificateError, match=r"holds a private key, which all institutions would get"):
        invite(made / "authority", PASSPHRASE, tmp_path / "out", coordinator=ADDRESS, ca=both, app=APP)
    assert not (tmp_path / "out").exists()


def test_no_invitation_is_longer_than_institutions_read(made: Path, tmp_path: Path) -> None:
    many, certificate = tmp_path / "many.pem", (made / "tls" / CA).read_bytes()
    many.write_bytes(certificate * 50)
    invite(made / "authority", PASSPHRASE, tmp_path / "long", coordinator=ADDRESS, ca=many, app=APP)
    assert Invitation.load(tmp_path / "long").ca == many.read_text()
    many.write_bytes(certificate * 100)
    with pytest.raises(CertificateError, match="institutions read 65536 at most"):
        invite(made / "authority", PASSPHRASE, tmp_path / "out", coordinator=ADDRESS, ca=many, app=APP)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"[" * 65_536, b"\xff", b'{"format": "dictpfl-invitation-2"}'])
def test_what_is_no_invitation_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(IdentityError):
        Invitation.load(tmp_path / "file")
    with pytest.raises(IdentityError, match="cannot read"):
        Invitation.load(tmp_path / "nowhere")


def test_as_it_is_typed(tmp_path: Path) -> None:
    (tmp_path / "passphrase").touch(mode=0o600)
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)

    def dictpfl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dictpfl.deploy.cli", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    for line in (
        "certificates --folder coordinator/tls --name localhost",
        "authority identity --name ministry --passphrase-file passphrase",
        "authority invite invitation --coordinator localhost:9443 --ca coordinator/tls/ca.pem --passphrase-file passphrase",
    ):
        done = dictpfl(*line.split())
        assert done.returncode == 0, done.stderr
    refused = dictpfl("institution", "accept", "invitation", "--name", "berlin", "--passphrase-file", "passphrase")
    assert refused.returncode == 1
    assert "call it, and give what it reads out by --authority-fingerprint" in " ".join(refused.stderr.split())
    words = spoken(public_of(tmp_path / "authority").fingerprint)
    accepted = dictpfl(
        "institution", "accept", "invitation", "--name", "berlin", "--passphrase-file", "passphrase",
        "--authority-fingerprint", words,
    )  # fmt: skip
    assert accepted.returncode == 0, accepted.stderr
    assert "institution berlin\n  " in accepted.stdout
    assert spoken(public_of(tmp_path / "institution").fingerprint) in accepted.stdout
