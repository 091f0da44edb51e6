"""`dictpfl institution unlock`: what was refused, shown to who decides whether sums are opened again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.deploy import console
from dictpfl.deploy.units import counted


def unlock(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="The institution's folder.")],
    yes: Annotated[bool, typer.Option("--yes", help="You have looked at what was refused; do not ask.")] = False,  # noqa: FBT002
) -> None:
    """Show which sums were refused, and open sums again after too many: once you know why. A running `up` may go on.

    Example: `dictpfl institution unlock --folder institution`
    """
    from dictpfl.deploy.ceremony.identity import Role
    from dictpfl.deploy.operations import begun
    from dictpfl.deploy.operations.refusals import Refusals

    begun.require(folder, Role.INSTITUTION)
    refusals = Refusals(folder.resolve())
    standing = refusals.standing()
    if not standing.unseen:
        console.say("nothing to unlock: no sum was refused since somebody last looked")
        return
    for line in (standing.text, *standing.lines()):
        console.say(line)
    if not yes and not (_at_terminal() and typer.confirm("Have you found out why, and shall sums be opened again?")):
        raise ConfigError("not unlocked: find out why these sums were refused, then answer yes or give --yes")
    console.say(f"{counted(refusals.unlock(standing), 'refused sum')} looked at; counting begins anew")


def _at_terminal() -> bool:
    return sys.stdin.isatty()
