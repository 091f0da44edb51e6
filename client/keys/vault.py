"""Vault for secrets at rest: Argon2id and AES-256-GCM around a file, and the sources of a passphrase.

A passphrase comes from a prompt, a file that only its owner may read, or a systemd credential; never from a command
line or an environment variable, which other processes may read.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from dictpfl.common.documents import require_format
from dictpfl.common.errors import KeyFileError, PassphraseError
from dictpfl.common.files import exposed_mode, in_shell, read_private

CREDENTIAL = "dictpfl-passphrase"
"""Name of the systemd credential (`LoadCredential=`, `LoadCredentialEncrypted=`)."""
NEW_CREDENTIAL = "dictpfl-new-passphrase"
"""Name of the systemd credential with the passphrase that replaces it."""
LEAST_PASSPHRASE = 12
"""Fewest characters of a passphrase."""

_FORMAT = "dictpfl-vault-1"
_COST = {"iterations": 3, "lanes": 4, "memory_kib": 65536}
"""Cost of Argon2id: RFC 9106, section 4, second recommended option: 64 MiB, about 0.2 s."""
_MOST = {"iterations": 16, "lanes": 16, "memory_kib": 1 << 21}
_SALT, _NONCE, _KEY = 16, 12, 32


def seal_at_rest(data: bytes, passphrase: bytes, purpose: str) -> bytes:
    """Encrypt a secret for one `purpose`; it does not open for another.

    Raises:
        PassphraseError: a passphrase that is too short.
    """
    require_strong(passphrase)
    head: dict[str, Any] = {"format": _FORMAT, "purpose": purpose, "kdf": "argon2id", **_COST}
    head |= {"salt": secrets.token_bytes(_SALT).hex(), "nonce": secrets.token_bytes(_NONCE).hex()}
    sealed = AESGCM(_derived(head, passphrase)).encrypt(bytes.fromhex(head["nonce"]), data, _bound(head))
    return _bound(head) + b"\n" + base64.b64encode(sealed) + b"\n"


def open_at_rest(data: bytes, passphrase: bytes, purpose: str, path: Path) -> bytes:
    """Decrypt a sealed secret; `path` is for messages.

    Raises:
        KeyFileError: not such a file, or sealed for another purpose.
        PassphraseError: wrong passphrase, or an altered file: which of the two cannot be told.
    """
    try:
        line, body = data.split(b"\n", 1)
        head = json.loads(line)
        require_format(head["format"], _FORMAT, path, KeyFileError)
        sealed = base64.b64decode(body.strip(), validate=True)
        good = head["purpose"] == purpose and head["kdf"] == "argon2id"
        # The file states the cost of the derivation: refuse one that is too cheap, or that would exhaust the machine.
        good = good and all(type(head[k]) is int and _COST[k] <= head[k] <= _MOST[k] for k in _COST)
        good = good and len(bytes.fromhex(head["salt"])) == _SALT and len(bytes.fromhex(head["nonce"])) == _NONCE
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise KeyFileError(f"{path} is no file sealed for {purpose!r} by this release, or is damaged; restore it")
    try:
        return AESGCM(_derived(head, passphrase)).decrypt(bytes.fromhex(head["nonce"]), sealed, line)
    except InvalidTag:
        raise PassphraseError(
            f"{path} does not open: the passphrase is wrong, or the file was altered. Try again; restore it from backup "
            "if the passphrase is surely right"
        ) from None


def _bound(head: dict[str, Any]) -> bytes:
    return json.dumps(head, sort_keys=True, separators=(",", ":")).encode()


def _derived(head: dict[str, Any], passphrase: bytes) -> bytes:
    return Argon2id(
        salt=bytes.fromhex(head["salt"]),
        length=_KEY,
        iterations=head["iterations"],
        lanes=head["lanes"],
        memory_cost=head["memory_kib"],
    ).derive(passphrase)


def require_strong(passphrase: bytes) -> None:
    """Refuse a passphrase that is easier to guess than the derivation is to run.

    Raises:
        PassphraseError: fewer than `LEAST_PASSPHRASE` characters.
    """
    if len(passphrase.decode("utf-8", "replace")) < LEAST_PASSPHRASE:
        raise PassphraseError(
            f"a passphrase of fewer than {LEAST_PASSPHRASE} characters protects nothing; take six random words"
        )


def passphrase_from_file(path: Path, *, refused_mode: int = 0o177) -> bytes:
    """Read the first line of a file that its owner alone may read.

    Raises:
        PassphraseError: missing, empty, or readable by others.
    """
    try:
        with path.open("rb") as file:
            exposed = exposed_mode(os.fstat(file.fileno()).st_mode, refused_mode)
            lines = file.read(1 << 16).splitlines()
    except OSError as error:
        raise PassphraseError(f"cannot read the passphrase file {path}: {error.strerror}") from error
    if exposed:
        raise PassphraseError(
            f"{path} has mode {exposed}, expected 0600 or 0400. Run `chmod 600 {in_shell(path)}`, and change the passphrase if "
            "others had access"
        )
    if not lines or not lines[0].strip():
        raise PassphraseError(f"{path} is empty; its first line is the passphrase")
    return lines[0]


def stored_passphrase(file: Path | None, credential: str = CREDENTIAL) -> bytes | None:
    """Read the passphrase from the systemd credential if there is one, else from the file if settings name one, else None.

    The credential comes first: settings travel with a folder that a service was given, and the file next to it does not.

    Raises:
        PassphraseError: credential or file cannot be used.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder and (path := Path(folder) / credential).is_file():
        # systemd grants access by an access list; stat shows the list's mask as permissions of the group.
        return passphrase_from_file(path, refused_mode=0o137)
    return None if file is None else passphrase_from_file(file)


def read_sealed(path: Path, passphrase: bytes, purpose: str) -> bytes:
    """Read a sealed file, which nobody but its owner may read even sealed."""
    return open_at_rest(read_private(path), passphrase, purpose, path)
