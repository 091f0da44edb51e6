"""Invitation to a network: one file, signed by its authority, with all that a site needs before it has a bundle.

It holds the authority's identity, the coordinator's address and the authority of its certificate, and the app that all run. Who has
compared the authority's eight words has compared all of it, so that one call at a site is enough. A site keeps what it accepted: an
older invitation, sent again, would bring back an address or a certificate that is not the coordinator's any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from dictpfl.common.documents import OTHER_RELEASE, parse_document
from dictpfl.common.errors import AppBundleError, CertificateError, ConfigError, IdentityError
from dictpfl.common.files import write_private
from dictpfl.common.fingerprint import spoken
from dictpfl.deploy.ceremony import custody
from dictpfl.deploy.ceremony.identity import (
    PRIVATE,
    Identity,
    PublicIdentity,
    Role,
    canonical,
    make_identity,
    open_identity,
    public_of,
)
from dictpfl.deploy.ceremony.pinning import Confirm, pin, pinned, require_trusted
from dictpfl.deploy.operations.certificates import CA
from dictpfl.deploy.operations.settings import NodeSettings, host_and_port

_FORMAT = "dictpfl-invitation-1"
_CONTEXT = b"dictpfl invitation 1\n"
_FIELDS = {"format", "serial", "date", "authority", "coordinator", "ca", "app"}
_LARGEST = 1 << 16
_PRIVATE_PEM = "PRIVATE KEY-----"
_MADE = "invitation made"
ACCEPTED = "network.invitation"
"""File in an institution's folder: the newest invitation that was accepted there."""
Agree = Callable[[Sequence[str]], bool]
"""Shows a person what an invitation changes, a line each; whether all of it is meant."""


@dataclass(frozen=True)
class Invitation:
    """Facts that a site needs, signed by the authority.

    Attributes:
        serial: from 1 on, in the order in which its authority made them.
        date: on which it was made.
        authority: who invites.
        coordinator: HOST:PORT of the coordinator's proxy.
        ca: certificates that the coordinator's is checked against, PEM.
        app: SHA-256 of the app bundle that all run, hexadecimal.
    """

    serial: int
    date: date
    authority: PublicIdentity
    coordinator: str
    ca: str
    app: str

    def __post_init__(self) -> None:
        """Check address and certificates.

        Raises:
            ConfigError: the address is no HOST:PORT. CertificateError: no certificate is in `ca`.
        """
        host_and_port(self.coordinator)
        if not _certificates(self.ca.encode()):
            raise CertificateError(f"no certificate in PEM form; expected the coordinator's {CA}")

    def facts(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "format": _FORMAT,
            "serial": self.serial,
            "date": self.date.isoformat(),
            "authority": self.authority.facts(),
            "coordinator": self.coordinator,
            "ca": self.ca,
            "app": self.app,
        }

    def signed(self, authority: Identity) -> bytes:
        """Encode as JSON, with the authority's signature."""
        facts = self.facts()
        signature = authority.sign(_CONTEXT + canonical(facts)).hex()
        return (json.dumps({**facts, "signature": signature}, indent=1) + "\n").encode()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an invitation, which must be signed by the authority that it names.

        Raises:
            IdentityError: missing, damaged or altered.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_LARGEST)
            facts = parse_document(data, _FORMAT, path, IdentityError)
            signature = bytes.fromhex(facts.pop("signature"))
            authority = PublicIdentity.of(facts["authority"], str(path))
            if not authority.verify(signature, _CONTEXT + canonical(facts)):
                raise IdentityError(f"{path} was altered: its signature does not fit; ask the authority for it again")
            if unknown := sorted(facts.keys() - _FIELDS):
                # Signed, so they are meant: what a later release asks for must not be passed over.
                raise IdentityError(
                    f"{path} has {', '.join(unknown)}, which this release does not know: {OTHER_RELEASE}"
                )
            serial, made = int(facts["serial"]), date.fromisoformat(facts["date"])
            return cls(serial, made, authority, str(facts["coordinator"]), str(facts["ca"]), str(facts["app"]))
        except OSError as error:
            raise IdentityError(f"cannot read the invitation {path}: {error.strerror}; ask for it again") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IdentityError(
                f"{path} is no invitation: {_lacking(error)}; ask the authority for it again"
            ) from error


def _lacking(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else "a value in it is not of the expected form"


def invite(folder: Path, passphrase: bytes, out: Path, *, coordinator: str, ca: Path, app: str) -> Invitation:
    """Write an invitation, as the authority whose folder it is.

    Raises:
        ConfigError: the folder is no authority's, or the address is none. CertificateError: `ca` holds no certificate, a private key,
            or more than an invitation can. PassphraseError: wrong. Nothing was written.
    """
    authority = open_identity(folder, passphrase)
    if authority.public.role is not Role.AUTHORITY:
        raise ConfigError(
            f"{folder} is the folder of the {authority.public.role} {authority.public.name}; only an authority invites"
        )
    try:
        certificates = ca.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CertificateError(f"cannot read {ca}; expected the coordinator's {CA}") from error
    if _PRIVATE_PEM in certificates:
        raise CertificateError(
            f"{ca} holds a private key, which all institutions would get; expected the coordinator's {CA} alone"
        )
    today = datetime.now(UTC).date()
    made = Invitation(_next_serial(folder), today, authority.public, coordinator, certificates, app)
    document = made.signed(authority)
    if len(document) > _LARGEST:
        raise CertificateError(
            f"{ca} makes an invitation of {len(document)} bytes, and institutions read {_LARGEST} at most; expected the coordinator's {CA} "
            "alone, not all authorities that a machine trusts"
        )
    custody.record(folder, authority, _MADE, serial=made.serial, coordinator=coordinator, app=app)
    out.write_bytes(document)
    return made


def _next_serial(folder: Path) -> int:
    """Count the invitations in the authority's custody log, which is restored with the folder, and add one."""
    if not (folder / custody.LOG).exists():
        return 1
    (log,) = custody.verify(folder / custody.LOG)
    return 1 + len([entry for entry in log.entries if entry["event"] == _MADE])


def accept(
    folder: Path,
    name: str | None,
    passphrase: Callable[[], bytes],
    path: Path,
    *,
    app: str,
    said: str | None = None,
    confirm: Confirm = lambda _authority: False,
    agree: Agree = lambda _changes: False,
) -> PublicIdentity:
    """Take an invitation up: make the institution's identity, and keep whom to trust and where to connect.

    A folder that has an identity keeps it: a newer invitation of the same authority brings a new address or certificate. One that
    changes nothing may be accepted again.

    Args:
        folder: the institution's; made if missing.
        name: the institution's; None only where there is an identity.
        passphrase: asked for the passphrase of a new identity.
        path: of the invitation.
        app: SHA-256 of the app bundle installed here.
        said: eight words or 64 digits, as the authority read them out; None: `confirm` is asked, unless it is known.
        confirm: see `require_trusted`.
        agree: asked if the folder has another address or certificate than the invitation.

    Raises:
        IdentityError: the invitation is damaged, altered or older than the last one, or names and identities do not fit.
        ConfigError: nobody agreed to what it changes.
        BundleError (unknown-sender): it is of another authority, or nobody confirmed it.
        AppBundleError: another app is installed here. Nothing was changed in any of these cases.
    """
    found = Invitation.load(path)
    there = public_of(folder) if (folder / PRIVATE).exists() else None
    if there is None and name is None:
        raise IdentityError("--name: give the institution's name, as all will see it")
    if there is not None and (there.role is not Role.INSTITUTION or name not in {None, there.name}):
        raise IdentityError(
            f"{folder} is the folder of the {there.role} {there.name}; choose another one for {name or 'an institution'}"
        )
    require_trusted(folder, found.authority, said, confirm)
    last = _last(folder)
    if last is not None and last.authority.fingerprint == found.authority.fingerprint:
        _require_newest(last, found, path)
    if found.app != app:
        raise AppBundleError(
            f"app bundle {app} is installed here, all others run {found.app}; install the release that they have, and accept again"
        )
    if (changes := list(_changes(folder, last, found))) and not agree(changes):
        raise ConfigError(
            f"{path} changes whom {folder} trusts or where it connects ({'; '.join(changes)}), and nobody agreed. Call the authority; then accept again at a "
            "terminal and answer yes, or give its words by --authority-fingerprint"
        )
    if there is None:
        identity = make_identity(folder, name or "", Role.INSTITUTION, passphrase())
        custody.record(folder, identity, "identity made", fingerprint=identity.public.fingerprint.hex())
        there = identity.public
    if pinned(folder) is None:
        pin(folder, found.authority)
    write_private(folder / CA, found.ca.encode())
    NodeSettings.updated(folder, coordinator=found.coordinator, ca=CA)
    write_private(folder / ACCEPTED, path.read_bytes())
    return there


def _last(folder: Path) -> Invitation | None:
    path = folder / ACCEPTED
    try:
        return Invitation.load(path) if path.exists() else None
    except IdentityError as error:
        raise IdentityError(
            f"cannot use the invitation that was accepted last: {error}. Restore {path} from backup, or move it away"
        ) from error


def _require_newest(last: Invitation, found: Invitation, path: Path) -> None:
    which = f"{path} is invitation {found.serial} of {found.date}, accepted was invitation {last.serial} of {last.date}"
    if found.serial < last.serial:
        raise IdentityError(f"{which}: an older one is not accepted. Ask the authority for the newest")
    if found.serial == last.serial and found != last:
        raise IdentityError(
            f"{which}: two that differ, under one number. Call the authority, which should make another one"
        )


def _changes(folder: Path, last: Invitation | None, found: Invitation) -> Iterator[str]:
    """Tell what an invitation changes in an institution's folder: its authority, and where it connects, if it knows that already."""
    if last is not None and last.authority.fingerprint != found.authority.fingerprint:
        words = [f"{one.name} ({spoken(one.fingerprint)})" for one in (last.authority, found.authority)]
        yield f"authority: {words[0]} becomes {words[1]}"
    if not (folder / NodeSettings.FILE).exists():
        return
    settings = NodeSettings.load(folder)
    if settings.coordinator != found.coordinator:
        yield f"coordinator: {settings.coordinator} becomes {found.coordinator}"
    try:
        before = (folder / settings.ca).read_bytes()
    except OSError:
        before = b""
    if _certificates(before) != _certificates(found.ca.encode()):
        yield f"authority of its certificate: {_named(before)} becomes {_named(found.ca.encode())}"


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion):
        return []


def _named(pem: bytes) -> str:
    named = [
        f"{one.subject.rfc4514_string()} (SHA-256 {one.fingerprint(SHA256()).hex()[:16]})" for one in _certificates(pem)
    ]
    return ", ".join(named) or "none"
