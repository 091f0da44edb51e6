"""Key files: SEAL's saved secret key, read without SEAL, and the key's fingerprint (section 3)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dictpfl.common.errors import KeyFileError
from dictpfl.deploy.audit.formats.streams import Words

_SEAL = struct.Struct("<HBBBBHQ")
_SEAL_MAGIC, _PLAIN, _ZSTD = 0xA15E, 0, 2
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_PROTOCOL = 4
_FIXED = struct.Struct("<32sQd")


@dataclass(frozen=True)
class Key:
    """Key of a federation.

    Attributes:
        secret: s in SEAL's transform domain, uint64, shape (N,).
        fingerprint: fingerprint computed from the file's content, 32 bytes.
        named: fingerprint that the file names, 32 bytes.
        saved: secret key as SEAL saved it.
        seed: seed of the epoch, 32 bytes; empty in a simulation.
        parameters: parameters that the key is for, as JSON values.
    """

    secret: Words = field(repr=False)
    fingerprint: bytes
    named: bytes
    saved: bytes = field(repr=False)
    seed: bytes = field(default=b"", repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read_key(path: Path) -> Key:
    """Read a key file.

    Raises:
        KeyFileError: missing, or not as specified.
    """
    try:
        document = json.loads(path.read_bytes())
        saved = base64.b64decode(document["secret"], validate=True)
        named = bytes.fromhex(document["fingerprint"])
        seed = bytes.fromhex(document["seed"])
        parameters = dict(document["parameters"])
        fingerprint = fingerprint_of(saved, bytes.fromhex(document["key_id"]), parameters, seed)
        return Key(polynomial(saved), fingerprint, named, saved, seed, parameters)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise KeyFileError(f"{path} is no key file as specified ({type(error).__name__}: {error})") from None


def fingerprint_of(saved: bytes, key_id: bytes, parameters: Mapping[str, Any], seed: bytes = b"") -> bytes:
    """Compute a key's fingerprint from SEAL's bytes, key id, parameters and the epoch's seed, 32 bytes."""
    text = json.dumps([_PROTOCOL, parameters], sort_keys=True, separators=(",", ":"))
    proof = hmac.digest(saved, b"dictpfl fingerprint" + key_id, "sha256")
    agreed = hashlib.sha256(text.encode()).digest()
    seeded = hmac.digest(seed, b"dictpfl epoch seed" + key_id, "sha256") if seed else hashlib.sha256(b"").digest()
    return hashlib.sha256(agreed + key_id + proof + seeded).digest()


def polynomial(saved: bytes) -> Words:
    """Read the polynomial of a secret key that SEAL 4.3 saved: uint64, shape (N,), in the transform domain.

    Raises:
        ValueError: another form.
    """
    content = _section(saved)
    _, count, _ = _FIXED.unpack_from(content)
    numbers = _section(content[_FIXED.size :])
    if struct.unpack_from("<Q", numbers)[0] != count or len(numbers) != 8 + 8 * count:
        raise ValueError(f"a secret key of {count} coefficients with {len(numbers) - 8} bytes of them")
    return np.frombuffer(numbers, "<u8", count, 8).astype(np.uint64)


def saved_key(secret: Words) -> bytes:
    """Write a secret key as SEAL does, uncompressed: for keys that this implementation makes."""
    numbers = struct.pack("<Q", secret.size) + secret.astype("<u8").tobytes()
    inner = _SEAL.pack(_SEAL_MAGIC, 16, 4, 3, _PLAIN, 0, 16 + len(numbers)) + numbers
    content = _FIXED.pack(bytes(32), secret.size, 1.0) + inner
    return _SEAL.pack(_SEAL_MAGIC, 16, 4, 3, _PLAIN, 0, 16 + len(content)) + content


def _section(data: bytes) -> bytes:
    """Return what is behind one of SEAL's headers."""
    magic, size, _, _, mode, _, length = _SEAL.unpack_from(data)
    if magic != _SEAL_MAGIC or size != _SEAL.size or not size <= length <= len(data):
        raise ValueError("no header of SEAL's")
    inside = data[size:length]
    if mode not in {_PLAIN, _ZSTD}:
        raise ValueError(f"SEAL's compression mode {mode}, expected 0 or 2")
    return inside if mode == _PLAIN else _unzipped(inside)


def _unzipped(data: bytes) -> bytes:
    """Read a zstd frame (RFC 8878) of blocks that are not compressed: random bytes give no others."""
    if not data.startswith(_ZSTD_MAGIC):
        raise ValueError("no zstd frame")
    descriptor = data[4]
    single = descriptor >> 5 & 1
    sizes = (single, 2, 4, 8)[descriptor >> 6]
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + sizes
    out = b""
    while True:
        head = int.from_bytes(data[at : at + 3], "little")
        last, form, size = head & 1, head >> 1 & 3, head >> 3
        if form > 1:
            raise ValueError("a compressed zstd block; only stored ones are read")
        out += data[at + 3 : at + 3 + size] if form == 0 else data[at + 3 : at + 4] * size
        at += 3 + (size if form == 0 else 1)
        if last:
            return out
