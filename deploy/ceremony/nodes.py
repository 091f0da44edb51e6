"""Flower's node key: made with an institution's identity, known to the coordinator by its public half."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from dictpfl.common.errors import KeyFileError
from dictpfl.common.files import read_private, write_private

NODE, NODE_PUBLIC = "node.key", "node.pub"


def make_node_key() -> tuple[bytes, str]:
    """Make a pair (P-384): the private half in OpenSSH's form and in clear, as Flower reads it; and the public one."""
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), _public(key)


def node_key(folder: Path) -> Path:
    """Return the public half of the node's key in a folder, written anew if missing; the pair is made if there is none.

    Raises:
        KeyFileError: damaged, or others may read the private half.
    """
    private, public = folder / NODE, folder / NODE_PUBLIC
    if not private.exists():
        clear, text = make_node_key()
        write_private(private, clear)
        write_private(public, (text + "\n").encode())
    text = _public_of(private)
    if not public.exists() or public.read_text(encoding="utf-8").strip() != text:
        write_private(public, (text + "\n").encode())
    return public


def _public_of(private: Path) -> str:
    try:
        key = load_ssh_private_key(read_private(private), None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{private} is damaged; restore it from backup, or move it away for a new one") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{private} holds no EC key, which Flower needs; move it away for a new one")
    return _public(key)


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
