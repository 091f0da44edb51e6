"""The app bundle of this installation: built, named by its hash, installed where the tasks find it."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from common.errors import AppBundleError
from common.keys import owner_only
from deploy.bundle import write_app
from deploy.operations import pinned


def build(app: Path | None = None) -> bytes:
    """The bundle (FAB) of this installation, or of an app folder; the same files give the same bytes anywhere."""
    from flwr.cli.build import build_fab_from_disk

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's use of pathspec
        return bytes(build_fab_from_disk(app or write_app(Path(scratch) / "dictpfl")))


def install_agreed(home: Path, agreed: str) -> str:
    """Install this installation's bundle into `home`; `agreed` is its SHA-256, or empty to take it as it is.

    Returns the SHA-256 that every task is held to from now on.

    Raises:
        AppBundleError: this installation's bundle is another one.
    """
    content = build()
    try:
        pinned.require(content, agreed or pinned.sha256_of(content), "that of the dictpfl installed here")
        pinned.install(owner_only(home), content)
    except pinned.Mismatch as error:
        raise AppBundleError(str(error)) from error
    return pinned.sha256_of(content)


def installed(home: Path, agreed: str) -> bytes:
    """The agreed bundle's bytes, after checking what is installed.

    Raises:
        AppBundleError: nothing is installed, or something else.
    """
    try:
        pinned.verified(home, agreed)
        return (home / pinned.FAB).read_bytes()
    except pinned.Mismatch as error:
        raise AppBundleError(str(error)) from error
