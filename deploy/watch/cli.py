"""`dictpfl watch`: the page of a run, an institution or a coordinator."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.deploy import console
from dictpfl.deploy.own_modules import use_working_directory

if TYPE_CHECKING:
    from dictpfl.deploy.watch.page import PageServer, Watched

commands = typer.Typer()

_PORT = 8643
_LOOK_SECONDS = 0.5


@commands.command(rich_help_panel="Simulate")
def watch(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Run folder, or an institution's or coordinator's folder.")
    ],
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help=f"Port of the page; default {_PORT}, or a free one if that is taken."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; other than loopback, give a certificate, too.")
    ] = "127.0.0.1",
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate (PEM), for TLS.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key (PEM).")] = None,
) -> None:
    """Show a federation on a live page: rounds, figures, bytes, time, who answered, alarms. Ctrl-C closes the page, not the run.

    Example: `dictpfl watch runs/digits-dictpfl`, while `dictpfl simulate` writes there; then open the address that is printed.
    """
    use_working_directory()
    from dictpfl.deploy.watch.page import PageServer

    if (certificate is None) != (key is None):
        raise ConfigError("expected --certificate and --key together, found one of them; give both, or neither")
    watched = what_is_watched(folder.resolve())
    server = _served(PageServer, watched, host, port, certificate, key)
    if certificate is None and not _is_loopback(host):
        console.err.print(
            f"[bold yellow]warning[/]: page and token cross the network unencrypted from {host}; give --certificate and --key, or "
            "watch on loopback through an SSH tunnel",
            soft_wrap=True,
        )
    console.say(f"watching {folder}: open {server.address}\nCtrl-C closes the page")
    server.run()
    console.say("page closed; what it showed goes on")


def what_is_watched(folder: Path) -> Watched:
    """Find out whose folder it is; waits for a run that is being founded.

    Raises:
        ConfigError: nobody's.
        DictPFLError: it cannot be read.
    """
    from dictpfl.client.folder import SETTINGS
    from dictpfl.deploy.runs.run import CONFIG
    from dictpfl.server.coordinator import AGREEMENT

    _wait_until_founded(folder)
    if (folder / CONFIG).exists():
        from dictpfl.deploy.watch.simulation import RunWatch

        return RunWatch(folder)
    if (folder / SETTINGS).exists():
        from dictpfl.deploy.watch.institution import InstitutionWatch

        return InstitutionWatch(folder)
    if (folder / AGREEMENT).exists():
        from dictpfl.deploy.watch.coordinator import CoordinatorWatch

        return CoordinatorWatch(folder)
    runs = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    several = f"; it holds runs: name one of {', '.join(str(folder / name) for name in runs)}" if runs else ""
    raise ConfigError(
        f"expected a run folder ({CONFIG}), an institution's ({SETTINGS}) or a coordinator's ({AGREEMENT}), found none of these in "
        f"{folder}{several}"
    )


def _wait_until_founded(folder: Path) -> None:
    from dictpfl.deploy.runs.run import CONFIG, is_at_work

    if not (folder / CONFIG).exists() and is_at_work(folder):
        console.say(f"{folder} is being founded; the page opens when that is done")
        while not (folder / CONFIG).exists() and is_at_work(folder):
            time.sleep(_LOOK_SECONDS)


def _served(server: type[PageServer], watched: Watched, host: str, port: int | None, *tls: Path | None) -> PageServer:
    from dictpfl.common.errors import ProcessError

    certificate, key = tls
    try:
        return server(watched, host, _PORT if port is None else port, certificate=certificate, key=key)
    except ProcessError as error:
        if port is not None:
            raise
        try:
            return server(watched, host, 0, certificate=certificate, key=key)
        except ProcessError:
            raise error from None  # the address, not the port, is at fault: nobody asked for port 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
