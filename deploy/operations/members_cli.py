"""Commands that say which institutions take part: `dictpfl coordinator admit`, `dismiss`, `exclude`, `readmit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.deploy import console

CoordinatorFolder = Annotated[Path, typer.Option("--folder", metavar="DIR", help="The coordinator's folder.")]


def admit(
    folder: CoordinatorFolder,
    name: Annotated[str, typer.Argument(help="The institution's name.")],
    public_key: Annotated[Path, typer.Argument(metavar="NODE.pub", help="From `dictpfl institution enrol`.")],
) -> None:
    """Let an institution's node take part, also one that was dismissed; at once if the coordinator is up, else when it starts.

    Example: `dictpfl coordinator admit north north.pub --folder coordinator`
    """
    from dictpfl.common.errors import ProcessError
    from dictpfl.common.files import owner_only, write_private
    from dictpfl.deploy.ceremony.custody import record
    from dictpfl.deploy.ceremony.identity import Role, coordinator_signer, require_name
    from dictpfl.deploy.ceremony.installing import node_digest
    from dictpfl.deploy.operations import begun
    from dictpfl.deploy.operations.control import connected, require_node_key
    from dictpfl.deploy.operations.places import NODES, RUN, SECRET
    from dictpfl.deploy.operations.settings import CoordinatorSettings

    require_name(name)
    begun.require(folder, Role.COORDINATOR)
    # Also where no SuperLink is up to refuse it: the next one would not start with it, and the key that was there be lost.
    require_node_key(public_key)
    kept = owner_only(folder / NODES) / f"{name}.pub"
    write_private(kept, public_key.read_bytes())
    settings = CoordinatorSettings.load(folder)
    try:
        with connected(settings.superlink, folder / settings.ca, folder / RUN / SECRET) as control:
            control.admit(kept)
    except ProcessError:
        said = f"{name} will be admitted when the coordinator starts"
    else:
        said = f"{name} admitted"
    record(folder, coordinator_signer(folder), "node admitted", institution=name, key=node_digest(kept))
    console.say(said)


def dismiss(
    folder: CoordinatorFolder,
    name: Annotated[str, typer.Argument(help="The institution's name, as in nodes/NAME.pub.")],
) -> None:
    """Strike an institution's node off, as when it has left, until `admit` takes it back; the coordinator must be up.

    Example: `dictpfl coordinator dismiss north --folder coordinator`
    """
    from dictpfl.deploy.ceremony.custody import record
    from dictpfl.deploy.ceremony.identity import Role, coordinator_signer
    from dictpfl.deploy.operations import begun
    from dictpfl.deploy.operations.control import connected
    from dictpfl.deploy.operations.coordinator import admitted
    from dictpfl.deploy.operations.places import RUN, SECRET
    from dictpfl.deploy.operations.settings import CoordinatorSettings

    begun.require(folder, Role.COORDINATOR)
    kept = {path.stem: path for path in admitted(folder)}
    if name not in kept:
        raise ConfigError(f"{name!r} is not admitted; admitted are {sorted(kept)}")
    settings = CoordinatorSettings.load(folder)
    with connected(settings.superlink, folder / settings.ca, folder / RUN / SECRET) as control:
        control.dismiss(kept[name])
    record(folder, coordinator_signer(folder), "node dismissed", institution=name)
    # Last: as long as the file is there, the next start would admit the node again, and this can be repeated.
    kept[name].unlink()
    console.say(f"{name} dismissed")


def exclude(
    folder: CoordinatorFolder,
    name: Annotated[str, typer.Argument(help="The institution's name, as `dictpfl status` shows it.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Kept beside the name, and in the custody log.")] = "",
) -> None:
    """Neither ask nor hear an institution from the next exchange on, also in a run that is on; `readmit` undoes it.

    Example: `dictpfl coordinator exclude north --folder coordinator --reason 'its machine is being moved'`
    """
    from dictpfl.deploy.operations.coordinator import exclude as leave_out
    from dictpfl.server.agreement import Agreement
    from dictpfl.server.coordinator import AGREEMENT

    excluded = leave_out(folder, name, reason)
    agreement = Agreement.load(folder / AGREEMENT)
    console.say(f"{name} is excluded; excluded are {', '.join(excluded)}")
    left = len(set(agreement.members) - set(excluded))
    if agreement.members and left < agreement.least:
        console.say(
            f"{left} institutions are left, at least {agreement.least} must be in a sum: no round closes until "
            "one is readmitted, or the authority begins an epoch with others"
        )


def readmit(
    folder: CoordinatorFolder,
    name: Annotated[str, typer.Argument(help="The institution's name.")],
) -> None:
    """Let an excluded institution take part again; it catches up with the rounds that it missed.

    Example: `dictpfl coordinator readmit north --folder coordinator`
    """
    from dictpfl.deploy.operations.coordinator import readmit as take_back

    take_back(folder, name)
    console.say(f"{name} takes part again, from the next exchange on")
