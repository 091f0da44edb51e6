"""Questions to a person, and what is read out: passphrases, fingerprints, what was issued."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dictpfl.common.errors import CeremonyError, ConfigError, PassphraseError
from dictpfl.common.fingerprint import matches, spoken
from dictpfl.deploy import console
from dictpfl.deploy.units import human_bytes

if TYPE_CHECKING:
    from dictpfl.deploy.ceremony.identity import PublicIdentity


def asked_passphrase(
    file: Path | None, *, new: bool = False, option: str = "--passphrase-file", credential: str | None = None
) -> bytes:
    """Return a passphrase from the file that was typed, the systemd credential, or a prompt.

    Raises:
        PassphraseError: from nowhere, or too weak for a new one.
    """
    from dictpfl.client.keys.vault import CREDENTIAL, passphrase_from_file, require_strong, stored_passphrase

    credential = credential or CREDENTIAL
    passphrase = stored_passphrase(None, credential) if file is None else passphrase_from_file(file)
    if passphrase is None:
        if not at_terminal():
            raise PassphraseError(
                f"no passphrase: there is no terminal to ask at. Give {option}, or the systemd credential {credential}"
            )
        passphrase = str(
            typer.prompt("new passphrase" if new else "passphrase", hide_input=True, confirmation_prompt=new)
        ).encode()
    if new:
        require_strong(passphrase)
    return passphrase


def app_here() -> str:
    """SHA-256 of the app bundle of the dictpfl that is installed here, in hexadecimal."""
    from dictpfl.deploy.app.bundle import build
    from dictpfl.deploy.app.pinned import sha256_of

    return sha256_of(build())


def at_terminal() -> bool:
    """True where a person can be asked."""
    return sys.stdin.isatty()


def shape_of(text: str) -> tuple[int, ...]:
    """Read a shape, such as 64 or 1x8x8.

    Raises:
        ConfigError: it is none.
    """
    try:
        shape = tuple(int(part) for part in text.split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ConfigError(f"--sample-shape {text!r}: expected whole numbers joined by x, such as 64 or 1x8x8")
    return shape


def compare(files: Mapping[str, Path], *, checked: bool) -> None:
    """Have a person compare fingerprints with each institution: whoever swaps an identity on its way gets the key.

    Raises:
        CeremonyError: one was not confirmed.
    """
    from dictpfl.deploy.ceremony.identity import PublicIdentity

    for path in files.values():
        identity = PublicIdentity.load(path)
        say_identity(identity)
        if checked:
            continue
        if not at_terminal() or not typer.confirm(f"Did {identity.name} read out the same by phone?"):
            raise CeremonyError(
                f"the fingerprint of {identity.name} was not confirmed; compare it by phone, then answer yes or give --checked"
            )


def confirmed(sender: PublicIdentity) -> bool:
    """Ask a person for the authority's fingerprint; whether it is this one's."""
    say_identity(sender)
    if not at_terminal():
        return False
    said = str(typer.prompt("Call the authority and type the eight words that it reads out"))
    return matches(sender.fingerprint, said)


def say_issued(issued: Any) -> None:
    """Print what an authority made, and for whom."""
    last = issued.table.last
    console.say(f"epoch {last.number} from round {last.first_round} on, key {last.fingerprint.hex()[:12]}")
    taught = f", of which the teacher {human_bytes(issued.teacher)}" if issued.teacher else ""
    for name in sorted(issued.members):
        size = human_bytes(issued.bundle(name).stat().st_size)
        console.say(f"  to {name}: {issued.bundle(name)} ({size}{taught})")
    console.say(f"  to the coordinator: {issued.coordinator}")
    say_ended(issued.ended)
    console.say(f"app         {issued.app}")
    console.say(f"federation  {issued.genesis.federation.hex()}")


def say_ended(studies: Mapping[str, Sequence[str]]) -> None:
    """Print the studies that a rotation ends, with those whom it removed: they have the key, and would open each sum."""
    for study, left in studies.items():
        console.say(
            f"study {study} ends, since {', '.join(left)} left and has its key: each institution stops it once it has joined this epoch. For "
            "those who stay, propose it under another name"
        )


def say_identity(identity: PublicIdentity) -> None:
    """Print a fingerprint, to compare by phone."""
    console.say(f"{identity.role} {identity.name}\n  {spoken(identity.fingerprint)}\n  {identity.fingerprint.hex()}")
