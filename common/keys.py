"""Key files and fingerprints. A key is made by the authority, held by institutions, never by the coordinator."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tenseal.sealapi as seal

from common.ckks import Scratch, context
from common.errors import KeyFileError
from common.files import read_private, write_private
from common.parameters import CKKSParameters

_FORMAT = "dictpfl-key-1"


@dataclass(frozen=True)
class FederationKey:
    """The institutions' shared CKKS key; `secret` and `public` are SEAL's bytes, never printed."""

    parameters: CKKSParameters
    key_id: bytes
    secret: bytes = field(repr=False)
    public: bytes = field(repr=False, default=b"")

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over protocol version, parameters, key id, an HMAC under the key and the public key; 32 bytes."""
        proof = hmac.digest(self.secret, b"dictpfl fingerprint" + self.key_id, "sha256")
        public = hashlib.sha256(self.public).digest()
        return hashlib.sha256(self.parameters.digest + self.key_id + proof + public).digest()


def identity_fingerprint(parameters: CKKSParameters) -> bytes:
    """What blobs of a federation without encryption carry in place of a key's fingerprint."""
    return hashlib.sha256(b"no encryption" + parameters.digest).digest()


def make_key(parameters: CKKSParameters) -> FederationKey:
    """A fresh key from SEAL's generator, seeded by the operating system."""
    scratch = Scratch()
    generator = seal.KeyGenerator(context(parameters))
    secret = scratch.bytes_of(generator.secret_key())
    scratch.wipe()
    public = b""
    if parameters.profile == "public_key":
        key = seal.PublicKey()
        generator.create_public_key(key)
        public = scratch.bytes_of(key)
    return FederationKey(parameters, secrets.token_bytes(16), secret, public)


def load_secret(key: FederationKey) -> Any:
    """SEAL's secret key."""
    return _loaded(seal.SecretKey(), key, key.secret)


def load_public(key: FederationKey) -> Any:
    """SEAL's public key (profile `public_key`)."""
    return _loaded(seal.PublicKey(), key, key.public)


def _loaded(thing: Any, key: FederationKey, data: bytes) -> Any:
    scratch = Scratch()
    try:
        return scratch.fill(thing, key.parameters, data)
    finally:
        scratch.wipe()


def save_key(key: FederationKey, path: Path) -> None:
    """Write a key file, mode 0600; refuses to replace one.

    Raises:
        KeyFileError: a file is already there.
    """
    if path.exists():
        raise KeyFileError(f"{path} exists; a key is never overwritten. Move it away if it is really not needed")
    write_private(path, key_document(key))


def key_document(key: FederationKey) -> bytes:
    """What a key file holds: for `save_key`, and for sealing it before it touches a disk."""
    document = {
        "format": _FORMAT,
        "parameters": key.parameters.to_json(),
        "key_id": key.key_id.hex(),
        "fingerprint": key.fingerprint.hex(),
        "secret": base64.b64encode(key.secret).decode(),
        "public": base64.b64encode(key.public).decode(),
    }
    return json.dumps(document, indent=1).encode()


def load_key(path: Path) -> FederationKey:
    """Read a key file.

    Raises:
        KeyFileError: missing, readable by others, of another format, or its content does not match its fingerprint.
    """
    return parse_key(read_private(path), path)


def parse_key(data: bytes, path: Path) -> FederationKey:
    """The key that a key file's content holds; `path` is for messages.

    Raises:
        KeyFileError: of another format, or its content does not match its fingerprint.
    """
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise KeyFileError(f"{path} is of format {document['format']!r}, expected {_FORMAT!r}")
        key = FederationKey(
            CKKSParameters.from_json(document["parameters"]),
            bytes.fromhex(document["key_id"]),
            base64.b64decode(document["secret"], validate=True),
            base64.b64decode(document["public"], validate=True),
        )
        recorded = bytes.fromhex(document["fingerprint"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise KeyFileError(
            f"{path} is no key file, or is damaged ({type(error).__name__}); restore it from backup"
        ) from None
    if not hmac.compare_digest(recorded, key.fingerprint):
        raise KeyFileError(f"{path} is damaged: its content does not match its fingerprint; restore it from backup")
    return key


def owner_only(folder: Path) -> Path:
    """The folder, made with mode 0700 if missing.

    Raises:
        KeyFileError: it exists and others may enter it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        raise KeyFileError(f"{folder} has mode {mode:04o}, expected 0700. Run `chmod 700 {folder}`")
    return folder
