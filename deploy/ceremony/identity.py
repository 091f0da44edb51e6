"""A party's identity: an X25519 pair to receive, an Ed25519 pair to sign, and Flower's node key.

Folder of a party: `identity.key` (both private keys, sealed at rest), `identity.pub` (what is handed out, signed by
itself), and for institutions `node.key`. Flower reads its node key in clear, so that one is protected by its mode only;
it lets a node register and nothing be opened. A coordinator receives nothing sealed and signs its custody log only, while
nobody is there to type: its one key, `custody.key`, is in clear, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_public_key,
)

from dictpfl.client.keys.vault import read_sealed, seal_at_rest
from dictpfl.common.documents import require_format
from dictpfl.common.errors import IdentityError
from dictpfl.common.files import read_private, write_private
from dictpfl.deploy.ceremony.changing import finish_change
from dictpfl.deploy.ceremony.nodes import NODE, NODE_PUBLIC, make_node_key

PRIVATE, PUBLIC, CUSTODY_KEY = "identity.key", "identity.pub", "custody.key"
SEALED_FOR = "identity"
"""Purpose that `identity.key` is sealed for."""
_FORMAT = "dictpfl-identity-1"
_CONTEXT = b"dictpfl identity 1\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LARGEST = 1 << 14


class Role(StrEnum):
    """Role of a party in the ceremony."""

    AUTHORITY = "authority"
    INSTITUTION = "institution"
    COORDINATOR = "coordinator"


@dataclass(frozen=True)
class PublicIdentity:
    """Identity of a party, as everybody may know it.

    Attributes:
        role: in the ceremony.
        name: a file name, too.
        receiving: X25519 public key, 32 bytes; empty for a coordinator.
        signing: Ed25519 public key, 32 bytes.
        node: Flower's public node key in OpenSSH form, of an institution only.
    """

    role: Role
    name: str
    receiving: bytes
    signing: bytes
    node: str = ""

    def __post_init__(self) -> None:
        """Check names and keys.

        Raises:
            IdentityError: a name that is no file name, or keys of another kind.
        """
        require_name(self.name)
        try:
            if self.receiving or self.role is not Role.COORDINATOR:
                X25519PublicKey.from_public_bytes(self.receiving)
            Ed25519PublicKey.from_public_bytes(self.signing)
            if self.node:
                node = load_ssh_public_key(self.node.encode())
                if not isinstance(node, ec.EllipticCurvePublicKey) or "\n" in self.node:
                    raise ValueError(self.node)  # noqa: TRY301 -- one message for all
        except (ValueError, UnsupportedAlgorithm) as error:
            raise IdentityError(
                f"the identity of {self.name!r} holds a key of another kind; ask for it again"
            ) from error

    def facts(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "format": _FORMAT,
            "role": str(self.role),
            "name": self.name,
            "receiving": self.receiving.hex(),
            "signing": self.signing.hex(),
            "node": self.node,
        }

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over all of it, 32 bytes: what is compared by phone."""
        return hashlib.sha256(_CONTEXT + canonical(self.facts())).digest()

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Tell whether this party signed the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.signing).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    @classmethod
    def of(cls, facts: Any, origin: str) -> Self:
        """Read what `facts` made.

        Raises:
            IdentityError: damaged, or of another release.
        """
        try:
            require_format(facts["format"], _FORMAT, origin, IdentityError)
            identity = cls(
                Role(facts["role"]),
                str(facts["name"]),
                bytes.fromhex(facts["receiving"]),
                bytes.fromhex(facts["signing"]),
                str(facts["node"]),
            )
            if facts != identity.facts():
                raise IdentityError(
                    f"{origin} is an identity of another release, or has unknown fields; ask for it again"
                )
        except (ValueError, KeyError, TypeError) as error:
            raise IdentityError(
                f"{origin} is no identity ({type(error).__name__}); ask its owner for it again"
            ) from error
        return identity

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an `identity.pub`, which must be signed by itself.

        Raises:
            IdentityError: missing, damaged or altered.
        """
        try:
            with path.open("rb") as file:
                document = json.loads(file.read(_LARGEST))
            signature = bytes.fromhex(document.pop("signature"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IdentityError(
                f"cannot read the identity {path} ({type(error).__name__}); ask for it again"
            ) from error
        identity = cls.of(document, str(path))
        if not identity.verify(signature, _CONTEXT + canonical(document)):
            raise IdentityError(f"{path} was altered: its own signature does not fit; ask its owner for it again")
        return identity


@dataclass(frozen=True)
class Signer:
    """A party with the private key that it signs with."""

    public: PublicIdentity
    signing: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return self.signing.sign(message)

    def document(self) -> bytes:
        """`identity.pub`: public, signed by itself."""
        facts = self.public.facts()
        signature = self.sign(_CONTEXT + canonical(facts)).hex()
        return (json.dumps({**facts, "signature": signature}, indent=1) + "\n").encode()


@dataclass(frozen=True)
class Identity(Signer):
    """A party with all its private keys."""

    receiving: X25519PrivateKey = field(repr=False)


def make_identity(folder: Path, name: str, role: Role, passphrase: bytes) -> Identity:
    """Make a party's keys in its folder.

    Raises:
        IdentityError: one is there already, or its public half alone. KeyFileError: others may enter the folder.
        PassphraseError: too weak.
    """
    from dictpfl.common.files import owner_only  # which loads SEAL: not for every start of the command line

    require_name(name)
    owner_only(folder)
    if (folder / PRIVATE).exists():
        raise IdentityError(f"{folder / PRIVATE} exists; an identity is never replaced. Choose another folder")
    if (folder / CUSTODY_KEY).exists():
        raise IdentityError(f"{folder} is the folder of a coordinator; choose another one for {name}")
    if (folder / PUBLIC).exists():
        raise IdentityError(
            f"{folder} holds {PUBLIC} without {PRIVATE}: a key that was lost, for which restore the backup; or its making was cut short "
            f"before anybody had it, and then remove {PUBLIC} and begin anew"
        )
    receiving, signing = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    node, node_public = make_node_key() if role is Role.INSTITUTION else (b"", "")
    public = PublicIdentity(
        role, name, receiving.public_key().public_bytes_raw(), signing.public_key().public_bytes_raw(), node_public
    )
    identity = Identity(public, signing, receiving)
    secrets = {"receiving": receiving.private_bytes_raw().hex(), "signing": signing.private_bytes_raw().hex()}
    sealed = seal_at_rest(canonical(secrets), passphrase, SEALED_FOR)
    if node:
        write_private(folder / NODE, node)
        write_private(folder / NODE_PUBLIC, (node_public + "\n").encode())
    write_private(folder / PUBLIC, identity.document())
    # The private half comes last: where it is, everything is.
    write_private(folder / PRIVATE, sealed)
    return identity


def public_of(folder: Path) -> PublicIdentity:
    """Return the public half of the party whose folder it is; no passphrase is needed.

    Raises:
        IdentityError: there is none.
    """
    if not (folder / PRIVATE).exists():
        raise IdentityError(f"{folder} holds no identity; make one with `dictpfl institution identity` (or authority)")
    return PublicIdentity.load(folder / PUBLIC)


def open_identity(folder: Path, passphrase: bytes) -> Identity:
    """Return the party with its private keys.

    Raises:
        IdentityError: none, or its halves do not belong together. PassphraseError: wrong.
        KeyFileError: others may read it.
    """
    from dictpfl.common.files import owner_only

    public = public_of(folder)
    owner_only(folder)
    finish_change(folder)
    secrets = json.loads(read_sealed(folder / PRIVATE, passphrase, SEALED_FOR))
    receiving = X25519PrivateKey.from_private_bytes(bytes.fromhex(secrets["receiving"]))
    signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secrets["signing"]))
    halves = (receiving.public_key().public_bytes_raw(), signing.public_key().public_bytes_raw())
    if halves != (public.receiving, public.signing):
        raise IdentityError(
            f"{folder / PUBLIC} is not the public half of {PRIVATE} beside it; restore both from backup"
        )
    return Identity(public, signing, receiving)


def coordinator_signer(folder: Path) -> Signer:
    """Return the coordinator's signing key, made in its folder if missing: nothing is ever sealed for it.

    Raises:
        IdentityError: its halves do not belong together, or the folder is another party's.
        KeyFileError: others may read it.
    """
    from dictpfl.common.files import owner_only

    owner_only(folder)
    if not (folder / CUSTODY_KEY).exists():
        if (folder / PUBLIC).exists():
            raise IdentityError(
                f"{folder} holds {PUBLIC} without {CUSTODY_KEY}: another party's folder (the coordinator needs one of its own), "
                "or a key that was lost; restore it, or move identity and custody log away to begin a new log"
            )
        clear = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(folder / CUSTODY_KEY, clear)
    try:
        key = load_pem_private_key(read_private(folder / CUSTODY_KEY), None)
    except ValueError as error:
        raise IdentityError(f"{folder / CUSTODY_KEY} is damaged; restore it from backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{folder / CUSTODY_KEY} holds a key of another kind; restore it from backup")
    own = Signer(PublicIdentity(Role.COORDINATOR, "coordinator", b"", key.public_key().public_bytes_raw()), key)
    if not (folder / PUBLIC).exists():
        write_private(folder / PUBLIC, own.document())
    if PublicIdentity.load(folder / PUBLIC) != own.public:
        raise IdentityError(
            f"{folder / PUBLIC} is not the public half of {CUSTODY_KEY} beside it; restore both from backup"
        )
    return own


def require_name(name: str) -> None:
    """Names become file names and columns of logs.

    Raises:
        IdentityError: other letters, or too long.
    """
    if not _NAME.fullmatch(name):
        raise IdentityError(
            f"{name!r} is no name for a party: expected up to 63 of A-Z, a-z, 0-9, '.', '_' and '-', a letter or digit first"
        )


def canonical(value: Any) -> bytes:
    """JSON with one form only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
