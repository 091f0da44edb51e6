"""TLS certificates: a small authority for trying out, a request to an institution's own, and what is wrong with one."""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dictpfl.common.errors import CertificateError
from dictpfl.common.files import owner_only, replace_private, write_private

CA, CA_KEY, CERTIFICATE, KEY, REQUEST = "ca.pem", "ca.key", "server.pem", "server.key", "server.csr"
CA_DAYS, DAYS, SOON_DAYS = 3650, 397, 30
_CLOCKS = dt.timedelta(hours=1)
"""Certificates begin an hour ago: clocks differ."""
_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_LONGEST_NAME = 253


@dataclass(frozen=True)
class Validity:
    """Validity of a certificate, as `doctor` shows it."""

    path: Path
    subject: str
    begins: dt.datetime
    ends: dt.datetime

    @property
    def begun(self) -> bool:
        """False where its time has not come yet: most likely this machine's clock is wrong."""
        return self.begins <= dt.datetime.now(dt.UTC)

    @property
    def days_left(self) -> float:
        """Negative once it has expired."""
        return (self.ends - dt.datetime.now(dt.UTC)) / dt.timedelta(days=1)


def try_out(folder: Path, names: Sequence[str], *, days: int = DAYS) -> Path:
    """Write an authority and a server certificate under it; the folder, mode 0700, is what only the coordinator has.

    An authority that is already there signs the new certificate.

    Args:
        folder: where to write.
        names: DNS names and addresses of the coordinator; localhost and 127.0.0.1 are added.
        days: of validity.

    Returns:
        The certificate; `ca.pem` beside it goes to the institutions.

    Raises:
        CertificateError: the authority's files cannot be used, its key is not there, or it ends before the certificate would; or a name
            is none. Nothing was changed.
    """
    key, request = _request(names)
    owner_only(folder)
    now = dt.datetime.now(dt.UTC)
    if days > (most := math.ceil(validity(folder / CA).days_left) if (folder / CA).exists() else CA_DAYS):
        raise CertificateError(
            f"{folder / CA} serves for {most} days, and nobody takes a certificate of an authority that has ended: expected --days {most} at "
            f"most, found {days}. For a new authority, which all institutions then need, move {CA} and {CA_KEY} away"
        )
    ca_key, ca = _authority(folder, now)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + dt.timedelta(days=days)) - _CLOCKS)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_alternative(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    _write(folder / CERTIFICATE, certificate, folder / KEY, key)
    return folder / CERTIFICATE


def request(folder: Path, names: Sequence[str]) -> Path:
    """Write a key and a certificate request for the institution's own authority; returns the request.

    Raises:
        CertificateError: a key is there, or a name is none. Nothing was changed.
    """
    key, wanted = _request(names)
    owner_only(folder)
    if (folder / KEY).exists():
        raise CertificateError(
            f"{folder / KEY} is there and is not overwritten: a certificate serves with it, or is being signed for it. Name another folder, "
            f"and once {CERTIFICATE} is signed move both here; or move the key away"
        )
    _write(folder / REQUEST, wanted, folder / KEY, key)
    return folder / REQUEST


def validity(path: Path) -> Validity:
    """Read when a certificate begins and ends.

    Raises:
        CertificateError: missing or unreadable.
    """
    certificate = _load(path)
    return Validity(
        path, certificate.subject.rfc4514_string(), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    )


def days_left(path: Path) -> float | None:
    """Days until a certificate ends, negative afterwards; None: it cannot be read."""
    try:
        return round(validity(path).days_left, 1)
    except CertificateError:
        return None


def standing(days: float) -> str:
    """Say how long a certificate serves, and what to do thirty days before its end."""
    if days >= SOON_DAYS:
        return f"{days:.0f} days left"
    return (
        f"{days:.0f} days left: renew it now" if days > 0 else f"ENDED {-days:.0f} days ago: renew it"
    ) + " (docs/deploy/coordinator.md#a-certificate-expires); rounds go on by themselves"


def require_valid(path: Path) -> Validity:
    """`validity`, refusing a certificate whose time is over.

    Raises:
        CertificateError: missing, unreadable or expired.
    """
    certificate = validity(path)
    if certificate.days_left <= 0:
        raise CertificateError(
            f"{path} expired on {certificate.ends:%Y-%m-%d}. Renew it (`dictpfl certificates`, or your own authority) and "
            "start again; institutions need not do anything, unless it is the authority's own"
        )
    return certificate


def _authority(folder: Path, now: dt.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    if (folder / CA_KEY).exists():
        return _authority_there(folder)
    if (folder / CA).exists():
        # Institutions trust this one, and its key is kept elsewhere, as the manual says: another one would cut them all off.
        raise CertificateError(
            f"{folder / CA} is there without {CA_KEY}: bring back the key that was moved away. Where another authority signs, take --csr; "
            f"for a new one of dictpfl's, which all institutions then need, move {CA} away"
        )
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dictpfl authority for trying out")])
    usage = x509.KeyUsage(
        key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 24 * 30 * _CLOCKS)
        .not_valid_after(now + dt.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    _write(folder / CA, certificate, folder / CA_KEY, key)
    return key, certificate


def _authority_there(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    if not (folder / CA).exists():
        raise CertificateError(
            f"{folder / CA_KEY} is there without {CA}: bring that back, from a backup or from an institution; if nobody has one, move {CA_KEY} "
            "away, and another authority is made"
        )
    certificate = _load(folder / CA)
    try:
        key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            f"{folder / CA_KEY} is damaged, or a key with a passphrase; restore it from backup, or choose another folder"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateError(
            f"{folder / CA_KEY} is not the key of {CA} beside it; restore both from backup, or choose another folder"
        )
    return key, certificate


def _request(names: Sequence[str]) -> tuple[ec.EllipticCurvePrivateKey, x509.CertificateSigningRequest]:
    alternative = _alternative(names)
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (names[0] if names else "localhost")[:64])])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return key, builder.add_extension(alternative, critical=False).sign(key, hashes.SHA384())


def _alternative(names: Sequence[str]) -> x509.SubjectAlternativeName:
    """Return the names that the certificate is for; the proxy and `dictpfl run` reach the SuperLink on loopback."""
    entries: list[x509.GeneralName] = []
    for name in dict.fromkeys([*names, "localhost", "127.0.0.1"]):
        try:
            entries.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            entries.append(x509.DNSName(_dns(name)))
    return x509.SubjectAlternativeName(entries)


def _dns(name: str) -> str:
    if len(name) > _LONGEST_NAME or not _DNS.fullmatch(name):
        raise CertificateError(
            f"{name!r} is no name of a coordinator: expected a DNS name, such as federation.example.org (one with other letters in its form "
            "xn--…), or an IP address, without a port"
        )
    return name


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateError(
            f"cannot read the certificate {path}: {error.strerror}; `dictpfl certificates` makes one for trying out"
        ) from error
    except ValueError as error:
        raise CertificateError(f"{path} is no certificate in PEM form: {error}") from error


def _write(
    path: Path,
    belonging: x509.Certificate | x509.CertificateSigningRequest,
    key_path: Path,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    """Write a key and what belongs to it, or neither where a disk is full: one without the other serves nobody."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(belonging.public_bytes(serialization.Encoding.PEM))
        write_private(key_path, _pem(key))

    replace_private(path, write)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
