"""Invitation to a network: one file, signed by its authority, with all that a site needs before it has a bundle.

It holds the authority's identity, the coordinator's address and the authority of its certificate, and the app that all run. Who has
compared the authority's eight words has compared all of it, so that one call at a site is enough.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography import x509

from dictpfl.common.documents import OTHER_RELEASE, parse_document
from dictpfl.common.errors import AppBundleError, CertificateError, ConfigError, IdentityError
from dictpfl.common.files import write_private
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
_FIELDS = {"format", "authority", "coordinator", "ca", "app"}
_LARGEST = 1 << 16
_PRIVATE_PEM = "PRIVATE KEY-----"


@dataclass(frozen=True)
class Invitation:
    """Facts that a site needs, signed by the authority.

    Attributes:
        authority: who invites.
        coordinator: HOST:PORT of the coordinator's proxy.
        ca: certificates that the coordinator's is checked against, PEM.
        app: SHA-256 of the app bundle that all run, hexadecimal.
    """

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
        try:
            found = x509.load_pem_x509_certificates(self.ca.encode())
        except (ValueError, x509.InvalidVersion):
            found = []
        if not found:
            raise CertificateError(f"no certificate in PEM form; expected the coordinator's {CA}")

    def facts(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "format": _FORMAT,
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
            return cls(authority, str(facts["coordinator"]), str(facts["ca"]), str(facts["app"]))
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
    made = Invitation(authority.public, coordinator, certificates, app)
    document = made.signed(authority)
    if len(document) > _LARGEST:
        raise CertificateError(
            f"{ca} makes an invitation of {len(document)} bytes, and institutions read {_LARGEST} at most; expected the coordinator's {CA} "
            "alone, not all authorities that a machine trusts"
        )
    custody.record(folder, authority, "invitation made", coordinator=coordinator, app=app)
    out.write_bytes(document)
    return made


def accept(
    folder: Path,
    name: str | None,
    passphrase: Callable[[], bytes],
    path: Path,
    *,
    app: str,
    said: str | None = None,
    confirm: Confirm = lambda _authority: False,
) -> PublicIdentity:
    """Take an invitation up: make the institution's identity, and keep whom to trust and where to connect.

    A folder that has an identity keeps it: a newer invitation of the same authority brings a new address or certificate.

    Args:
        folder: the institution's; made if missing.
        name: the institution's; None only where there is an identity.
        passphrase: asked for the passphrase of a new identity.
        path: of the invitation.
        app: SHA-256 of the app bundle installed here.
        said: eight words or 64 digits, as the authority read them out; None: `confirm` is asked, unless it is known.
        confirm: see `require_trusted`.

    Raises:
        IdentityError: the invitation is damaged or altered, or names and identities do not fit.
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
    if found.app != app:
        raise AppBundleError(
            f"app bundle {app} is installed here, all others run {found.app}; install the release that they have, and accept again"
        )
    if there is None:
        identity = make_identity(folder, name or "", Role.INSTITUTION, passphrase())
        custody.record(folder, identity, "identity made", fingerprint=identity.public.fingerprint.hex())
        there = identity.public
    if pinned(folder) is None:
        pin(folder, found.authority)
    write_private(folder / CA, found.ca.encode())
    NodeSettings.updated(folder, coordinator=found.coordinator, ca=CA)
    return there
