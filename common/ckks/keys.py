"""Key files and fingerprints. A key is made by the authority, held by institutions, never by the coordinator."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tenseal.sealapi as seal

from dictpfl.common.ckks.context import Scratch, context
from dictpfl.common.ckks.parameters import CKKSParameters
from dictpfl.common.documents import parse_document
from dictpfl.common.errors import KeyFileError
from dictpfl.common.files import read_private, write_private
from dictpfl.common.settings import NO_PUBLIC_KEY

_FORMAT = "dictpfl-key-1"
_NO_SEED = hashlib.sha256(b"").digest()
"""Part of the fingerprint of a key without a seed, in place of the seed's proof."""
_SEED = 32


@dataclass(frozen=True)
class FederationKey:
    """CKKS key that all institutions share.

    Attributes:
        parameters: parameters that it is for.
        key_id: 16 random bytes.
        secret: SEAL's secret key as bytes, never printed.
        seed: 32 random bytes of the epoch, never printed; empty in a simulation, where genesis's serves.
    """

    parameters: CKKSParameters
    key_id: bytes
    secret: bytes = field(repr=False)
    seed: bytes = field(default=b"", repr=False)

    @property
    def fingerprint(self) -> bytes:
        """Fingerprint, 32 bytes: SHA-256 over protocol version, parameters, key id and HMACs under the key and the seed."""
        proof = hmac.digest(self.secret, b"dictpfl fingerprint" + self.key_id, "sha256")
        seed = hmac.digest(self.seed, b"dictpfl epoch seed" + self.key_id, "sha256") if self.seed else _NO_SEED
        return hashlib.sha256(self.parameters.digest + self.key_id + proof + seed).digest()


def identity_fingerprint(parameters: CKKSParameters) -> bytes:
    """Fingerprint, 32 bytes, in the blobs of a federation without encryption."""
    return hashlib.sha256(b"no encryption" + parameters.digest).digest()


def make_key(parameters: CKKSParameters, seed: bytes = b"") -> FederationKey:
    """Make a fresh key with SEAL's generator, seeded by the operating system; `seed`: of the epoch."""
    scratch = Scratch()
    generator = seal.KeyGenerator(context(parameters))
    secret = scratch.bytes_of(generator.secret_key())
    scratch.wipe()
    return FederationKey(parameters, secrets.token_bytes(16), secret, seed)


def load_secret(key: FederationKey) -> Any:
    """Load the key into SEAL."""
    scratch = Scratch()
    try:
        return scratch.fill(seal.SecretKey(), key.parameters, key.secret)
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
    """Content of a key file, JSON: for `save_key`, and for sealing it before it touches a disk."""
    document = {
        "format": _FORMAT,
        "parameters": key.parameters.to_json(),
        "key_id": key.key_id.hex(),
        "fingerprint": key.fingerprint.hex(),
        "secret": base64.b64encode(key.secret).decode(),
        "seed": key.seed.hex(),
        "public": "",
    }
    return json.dumps(document, indent=1).encode()


def load_key(path: Path) -> FederationKey:
    """Read a key file.

    Raises:
        KeyFileError: missing, readable by others, of another format, or its content does not match its fingerprint.
    """
    return parse_key(read_private(path), path)


def parse_key(data: bytes, path: Path) -> FederationKey:
    """Read the key from a key file's content; `path` is for messages.

    Raises:
        KeyFileError: of another format, or its content does not match its fingerprint.
    """
    try:
        document = parse_document(data, _FORMAT, path, KeyFileError)
        key = FederationKey(
            CKKSParameters.from_json(document["parameters"]),
            bytes.fromhex(document["key_id"]),
            base64.b64decode(document["secret"], validate=True),
            bytes.fromhex(document["seed"]),
        )
        if document["public"]:
            raise KeyFileError(f"{path} holds a public key: {NO_PUBLIC_KEY}; ask the authority for a new key")
        if len(key.seed) not in (0, _SEED):
            raise KeyFileError(
                f"{path} holds a seed of {len(key.seed)} bytes, expected {_SEED}; restore it from backup"
            )
        recorded = bytes.fromhex(document["fingerprint"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise KeyFileError(
            f"{path} is no key file, or is damaged ({type(error).__name__}); restore it from backup"
        ) from None
    if not hmac.compare_digest(recorded, key.fingerprint):
        raise KeyFileError(f"{path} is damaged: its content does not match its fingerprint; restore it from backup")
    return key
