"""Commands of invitations: `dictpfl authority invite`, `dictpfl institution accept`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dictpfl.deploy import console
from dictpfl.deploy.ceremony.asking import app_here, asked_passphrase, at_terminal, confirmed, say_identity
from dictpfl.deploy.ceremony.cli import AuthorityFolder, Fingerprint, InstitutionFolder, PassphraseFile
from dictpfl.deploy.extras import require


def invite(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="To write, and to send to each institution.")],
    address: Annotated[
        str,
        typer.Option("--coordinator", metavar="HOST:PORT", help="Where institutions connect, from the coordinator."),
    ],
    ca: Annotated[
        Path, typer.Option(metavar="ca.pem", help="From the coordinator; its fingerprint compared by phone.")
    ],
    folder: AuthorityFolder = Path("authority"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write an invitation: your identity, the coordinator's address and certificate, and the app, signed by you.

    Example: `dictpfl authority invite network.invitation --coordinator federation.example.org:443 --ca ca.pem
    --passphrase-file passphrase`
    """
    from dictpfl.deploy.operations import inviting

    console.require_place(out)
    made = inviting.invite(folder, asked_passphrase(passphrase_file), out, coordinator=address, ca=ca, app=app_here())
    console.say(
        f"{out}: invitation {made.serial} of {made.date}; send it to each institution, and read your eight words out by phone"
    )


def accept(
    invitation: Annotated[Path, typer.Argument(metavar="FILE", help="From the authority.")],
    name: Annotated[
        str | None, typer.Option(help="The institution's name: letters, digits, '.', '_', '-'. Needed once.")
    ] = None,
    authority_fingerprint: Fingerprint = None,
    folder: InstitutionFolder = Path("institution"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Accept an invitation: make the institution's keys, and keep whom to trust and where to connect.

    Example: `dictpfl institution accept network.invitation --name north --passphrase-file passphrase
    --authority-fingerprint FINGERPRINT`
    """
    require("institution", "institution accept")
    from dictpfl.deploy.ceremony.identity import PUBLIC
    from dictpfl.deploy.operations import inviting

    def agreed(changes: Sequence[str]) -> bool:
        for change in changes:
            console.say(change)
        if authority_fingerprint is not None:
            return True
        return at_terminal() and typer.confirm("Did the authority say so by phone?")

    own = inviting.accept(
        folder,
        name,
        lambda: asked_passphrase(passphrase_file, new=True),
        invitation,
        app=app_here(),
        said=authority_fingerprint,
        confirm=confirmed,
        agree=agreed,
    )
    console.say(f"{folder / PUBLIC}: send it to the authority, and read this fingerprint out by phone")
    say_identity(own)
