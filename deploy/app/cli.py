"""`dictpfl app`: the federation as an app for Flower's own programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dictpfl.common.files import in_shell
from dictpfl.deploy import console
from dictpfl.deploy.extras import require
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.own_modules import use_working_directory

commands = typer.Typer(
    name="app",
    rich_help_panel="Deploy",
    help="A Flower app, for `flwr run` and Flower's own programs.",
    no_args_is_help=True,
    suggest_commands=False,
)


@commands.callback()
def _app() -> None:
    """Keep `write` a command of its own: Typer makes a single one the group."""


@commands.command()
def write(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the app; missing or empty.")],
    config: Annotated[
        Path, typer.Option("--config", metavar="CONFIG.toml", help="Configuration; `dictpfl init` writes one.")
    ] = Path("federation.toml"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as training.epochs=2.")
    ] = None,
    publisher: Annotated[str, typer.Option(help="Publisher's name on Flower's hub.")] = "dictpfl",
) -> None:
    """Found a federation and write it as a Flower app: `flwr run FOLDER` executes it, simulated or deployed.

    Example: `dictpfl app write myapp --config federation.toml`, then
    `flwr run myapp local --stream --federation-config 'num-supernodes=3'`.
    """
    require("simulation", "app write")
    use_working_directory()
    from dictpfl.common.config import FederationConfig
    from dictpfl.deploy.app.writing import write_federation

    checked = FederationConfig.load(config, overrides(set_))
    console.warn_insecure(checked.insecurities)
    console.require_place(folder)
    target = write_federation(checked, folder, source=config, publisher=publisher, changed=set_ or ())
    number = checked.federation.participants
    console.say(
        f"{target} written; `flwr run {in_shell(folder)} local --stream --federation-config 'num-supernodes={number}'` runs it"
    )
