"""`dictpfl init` and `new`: a configuration, or a project folder, to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import in_shell, taken_back
from dictpfl.deploy import console

commands = typer.Typer()


@commands.command(rich_help_panel="Begin")
def init(
    path: Annotated[Path, typer.Argument(metavar="CONFIG.toml")] = Path("federation.toml"),
    minimal: Annotated[bool, typer.Option("--minimal", help="A few lines that run as they are.")] = False,  # noqa: FBT002
    tabular: Annotated[bool, typer.Option("--tabular", help="For tables, prepared by pooled statistics.")] = False,  # noqa: FBT002
    images: Annotated[bool, typer.Option("--images", help="For folders of pictures.")] = False,  # noqa: FBT002
    text: Annotated[bool, typer.Option("--text", help="For texts, with a model of transformers.")] = False,  # noqa: FBT002
) -> None:
    """Write a configuration to start from: every key with its meaning, or a short one for a kind of data.

    Example: `dictpfl init federation.toml --tabular`
    """
    from dictpfl.deploy.reference import commented_toml
    from dictpfl.deploy.starting import KINDS, starting

    wanted = [kind for kind, is_so in zip(KINDS, (minimal, tabular, images, text), strict=True) if is_so]
    if len(wanted) > 1:
        raise ConfigError(f"--{wanted[0]} and --{wanted[1]} write different files; choose one of them")
    if path.exists():
        raise ConfigError(f"{path} exists and is not overwritten; name another file")
    console.require_place(path)
    with taken_back(path):
        path.write_text(starting(wanted[0]) if wanted else commented_toml(), encoding="utf-8")
    follows = (
        "`dictpfl simulate {}` runs it"
        if wanted in ([], ["minimal"])
        else "say in it where your data lie, then `dictpfl describe {}`"
    )
    look = "" if wanted else " for a first look; --minimal writes the settings of README's figures"
    console.say(f"{path} written; {follows.format(in_shell(path))}{look}")


@commands.command(rich_help_panel="Begin")
def new(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="Folder to make; its name is the federation's.")],
) -> None:
    """Make a project folder that runs: model, data, task, configuration, README and a test.

    Example: `dictpfl new ward`
    """
    from dictpfl.deploy.projects import write_project

    console.require_place(folder)
    names = write_project(folder)
    console.say(
        f"{folder} written: {', '.join(names)}\n`cd {in_shell(folder)}; dictpfl simulate federation.toml --engine local` runs it"
    )
