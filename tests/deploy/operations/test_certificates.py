"""Certificates that `dictpfl certificates` makes: what institutions trust already is not replaced, and nothing unfit is made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dictpfl.common.errors import CertificateError
from dictpfl.deploy.operations import certificates
from dictpfl.deploy.operations.certificates import CA, CA_KEY, CERTIFICATE, KEY, REQUEST, request, try_out
from dictpfl.deploy.operations.preflight import require_certificate
from tests.support.failing_disks import small_files


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tls"
    try_out(folder, ["federation.example.org"])
    return folder


@pytest.fixture
def made(first: Path, tmp_path: Path) -> Path:
    """A copy of a coordinator's folder `tls`."""
    return Path(shutil.copytree(first, tmp_path / "tls"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def other_key(password: bytes | None = None) -> bytes:
    seal = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, seal
    )


def test_an_authority_whose_key_was_moved_away_is_not_replaced(made: Path) -> None:
    """The manual says to move `ca.key` off the machine: without it, a renewal would make an authority that nobody trusts."""
    key = (made / CA_KEY).read_bytes()
    (made / CA_KEY).unlink()
    before = contents(made)
    with pytest.raises(CertificateError, match=r"ca\.pem is there without ca\.key: bring back the key"):
        try_out(made, ["federation.example.org"])
    assert contents(made) == before
    (made / CA_KEY).write_bytes(key)
    try_out(made, ["federation.example.org"])
    assert (made / CA).read_bytes() == before[CA]
    assert (made / CERTIFICATE).read_bytes() != before[CERTIFICATE]
    require_certificate(made / CERTIFICATE, made / KEY, made / CA, "federation.example.org")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (b"", "is damaged"),
        (b"garbage", "is damaged"),
        (other_key(b"passphrase"), "a key with a passphrase"),
        (other_key(), r"is not the key of ca\.pem beside it"),
    ],
)
def test_an_authority_s_key_that_cannot_be_used_changes_nothing(made: Path, key: bytes, said: str) -> None:
    (made / CA_KEY).write_bytes(key)
    before = contents(made)
    with pytest.raises(CertificateError, match=said):
        try_out(made, ["federation.example.org"])
    assert contents(made) == before


@pytest.mark.parametrize(
    "name", ["", "höst.example.org", "a b", "host.example.org:9443", "https://host", "[::1]", "a..b", "a" * 64, "-a"]
)
def test_what_is_no_name_of_a_coordinator(name: str, tmp_path: Path) -> None:
    for make in (try_out, request):
        with pytest.raises(CertificateError, match="is no name of a coordinator: expected a DNS name"):
            make(tmp_path / "tls", [name])
    assert not (tmp_path / "tls").exists()


@pytest.mark.parametrize("name", ["localhost", "*.example.org", "xn--hst-sna.example.org", "192.0.2.1", "2001:db8::1"])
def test_names_of_a_coordinator(name: str, tmp_path: Path) -> None:
    try_out(tmp_path / "tls", [name])
    reached = name.replace("*", "host")
    require_certificate(*(tmp_path / "tls" / part for part in (CERTIFICATE, KEY, CA)), reached)


def test_a_request_overwrites_no_key(made: Path, tmp_path: Path) -> None:
    """A key that serves, or whose certificate is being signed, is nowhere else."""
    before = contents(made)
    with pytest.raises(CertificateError, match=r"server\.key is there and is not overwritten.*Name another folder"):
        request(made, ["federation.example.org"])
    assert contents(made) == before
    assert request(tmp_path / "next", ["federation.example.org"]) == tmp_path / "next" / REQUEST


def test_a_full_disk_leaves_keys_and_certificates_together(made: Path, tmp_path: Path) -> None:
    """There was room for the key alone: a new one took the place of that of the certificate, and `ca.key` stood without `ca.pem`."""
    before = contents(made)
    with small_files(600), pytest.raises(OSError, match="too large"):
        try_out(made, [])
    assert contents(made) == before
    for number, make in enumerate((try_out, request)):
        folder = tmp_path / str(number)
        with small_files(600 if make is try_out else 400), pytest.raises(OSError, match="too large"):
            make(folder, [])
        assert contents(folder) == {}
        assert make(folder, []).exists()


def test_an_authority_s_key_without_its_certificate(made: Path) -> None:
    """It was told to run the command that says so."""
    (made / CA).unlink()
    before = contents(made)
    with pytest.raises(CertificateError, match=r"ca\.key is there without ca\.pem: bring that back"):
        try_out(made, [])
    assert contents(made) == before


def test_a_certificate_does_not_outlive_its_authority(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes one whose authority has ended, whatever it says of itself; one to the authority's last day is made."""
    before = contents(made)
    with pytest.raises(CertificateError, match=r"serves for 3650 days.* expected --days 3650 at most, found 3651"):
        try_out(made, ["federation.example.org"], days=3651)
    with pytest.raises(CertificateError, match="found 3651"):
        try_out(tmp_path / "fresh", ["federation.example.org"], days=3651)
    assert contents(made) == before
    assert not (tmp_path / "fresh" / CA).exists()
    monkeypatch.setattr(certificates, "CA_DAYS", 20)
    try_out(tmp_path / "short", ["federation.example.org"], days=20)
    try_out(tmp_path / "short", ["federation.example.org"], days=20)
    with pytest.raises(CertificateError, match="expected --days 20 at most, found 397"):
        try_out(tmp_path / "short", ["federation.example.org"])
