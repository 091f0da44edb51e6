"""Trust in an authority: people decide once whom an institution takes for it, and it holds to that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from dictpfl.common.errors import BundleError, IdentityError
from dictpfl.common.files import write_private
from dictpfl.common.fingerprint import matches, spoken
from dictpfl.deploy.ceremony.identity import PublicIdentity, Role

PINNED = "authority.json"
Confirm = Callable[[PublicIdentity], bool]
"""Asks a person whether this is the authority."""


def pinned(folder: Path) -> PublicIdentity | None:
    """Return the authority that was confirmed earlier, or None.

    Raises:
        IdentityError: the file is damaged.
    """
    path = folder / PINNED
    if not path.exists():
        return None
    try:
        return PublicIdentity.of(json.loads(path.read_bytes()), str(path))
    except (OSError, ValueError) as error:
        raise IdentityError(f"cannot read {path} ({type(error).__name__}); restore it from backup") from error


def pin(folder: Path, authority: PublicIdentity) -> None:
    """Hold to this authority from now on."""
    write_private(folder / PINNED, json.dumps(authority.facts(), indent=1).encode())


def require_trusted(folder: Path, sender: PublicIdentity, said: str | None, confirm: Confirm) -> None:
    """Trust the sender if it is the pinned authority, or else what a person says.

    Args:
        said: the fingerprint that the authority read out, or None.
        confirm: asked if nothing is pinned and nothing was said.

    Raises:
        BundleError (unknown-sender): it is not the authority, or nobody confirmed it.
        IdentityError: `said` is no whole fingerprint.
    """
    if sender.role is not Role.AUTHORITY:
        raise BundleError(
            f"signed by the {sender.role} {sender.name}; only an authority makes bundles", code="unknown-sender"
        )
    if said is not None and not matches(sender.fingerprint, said):
        raise BundleError(
            f"signed by {sender.name}, {spoken(sender.fingerprint)}, not by the authority whose fingerprint was given. Do not "
            "use this file; ask the authority by phone",
            code="unknown-sender",
        )
    known = pinned(folder)
    if known is not None and known.fingerprint != sender.fingerprint:
        raise BundleError(
            f"signed by {sender.name}, {spoken(sender.fingerprint)}; the authority of {folder} is {known.name}, "
            f"{spoken(known.fingerprint)}. Do not use this file; ask the authority by phone",
            code="unknown-sender",
        )
    if known is None and said is None and not confirm(sender):
        raise BundleError(
            f"nobody confirmed that {spoken(sender.fingerprint)} is the authority; call it, and give what it reads out by "
            "--authority-fingerprint",
            code="unknown-sender",
        )
