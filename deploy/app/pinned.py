"""The app bundle that was agreed on, on disk, and the proof that it is that one; checked before every task.

The standard library only: a task imports `common` from the agreed bundle, so nothing may have imported it before.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

FAB, FILES = "agreed.fab", "agreed"
TERMS, EPOCHS = "terms.json", "epochs"
_EPOCH = re.compile(r"[0-9]{4,}")
_MANIFEST = ".info/"


class Mismatch(Exception):  # noqa: N818  turned into `dictpfl.common.errors.AppBundleError` where that may be imported
    """Bytes that are not what was agreed on; the message says expected, found and remedy."""


def sha256_of(content: bytes) -> str:
    """Return the name of a bundle: SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def require(content: bytes, agreed: str, whose: str) -> None:
    """Raise `Mismatch` unless the bundle is the agreed one; `whose`: whose bundle it is, for the message."""
    came = sha256_of(content)
    if came != agreed:
        raise Mismatch(
            f"app bundle refused: {whose} is {came[:16]}, agreed on was {agreed[:16]}. Install the release of dictpfl "
            "that all parties agreed on, at both ends, and compare `dictpfl bundle` by phone"
        )


def home(party: Path) -> Path:
    """Folder with a party's terms in force: that of the newest epoch that an institution joined, else its own."""
    epochs = [path for path in (party / EPOCHS).glob("*") if _EPOCH.fullmatch(path.name)]
    return max(epochs, key=lambda epoch: int(epoch.name)) if epochs else party


def require_in_force(party: Path, agreed: str) -> None:
    """Raise `Mismatch` unless the terms in a party's folder, if there are any, still name the app that `up` started with.

    `up` has verified their signature; what a task looks for is an epoch that was joined, or a file that was altered, since.
    """
    path = home(party) / TERMS
    if not path.exists() and path.parent == party:
        return
    try:
        app = str(json.loads(path.read_bytes())["app"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Mismatch(f"app bundle refused: {path} cannot be read ({type(error).__name__}); restore it") from error
    if app != agreed:
        raise Mismatch(
            f"app bundle refused: the terms of the epoch in force name {app[:16]}, `up` was started with {agreed[:16]}. "
            "Install the release that the epoch agreed on, and start `up` again"
        )


def members(content: bytes) -> dict[str, bytes]:
    """Return the files of a bundle by name, without Flower's manifest."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if not name.startswith(_MANIFEST) and not name.endswith("/")
        }


def install(home: Path, content: bytes) -> Path:
    """Unpack a bundle into `home` (mode 0700), read-only; what was there is replaced."""
    folder = home / FILES
    remove(folder)
    for name, data in members(content).items():
        path = folder / name
        if folder.resolve() not in path.resolve().parents:
            raise Mismatch(f"app bundle refused: it holds a file outside of itself, {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o400)
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o500)
    fab = home / FAB
    fab.unlink(missing_ok=True)
    fab.write_bytes(content)
    fab.chmod(0o400)
    return folder


def remove(folder: Path) -> None:
    """Remove what `install` unpacked, if anything."""
    if not folder.exists():
        return
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o700)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def verified(home: Path, agreed: str) -> Path:
    """Return the installed app's folder, once its files are the agreed bundle's, byte for byte, and no other is there.

    Raises `Mismatch`.
    """
    folder, fab = home / FILES, home / FAB
    try:
        content = fab.read_bytes()
    except OSError as error:
        raise Mismatch(f"no app is installed in {home} ({error.strerror}); start `up` again") from error
    require(content, agreed, f"the one in {fab}")
    expected = members(content)
    installed = {str(path.relative_to(folder)): path for path in folder.rglob("*") if not path.is_dir()}
    wrong = sorted(set(expected) ^ set(installed)) + sorted(
        name for name in set(expected) & set(installed) if installed[name].read_bytes() != expected[name]
    )
    if wrong:
        raise Mismatch(f"the app in {folder} was altered ({', '.join(wrong[:3])}); start `up` again to install it anew")
    return folder
