"""Door of commands: entry points in `dictpfl.commands` give Typer apps, and the command line is what they give together.

An app without a name adds its commands to `dictpfl`; one with a name is a group (`Typer(name="audit")`), and joins the
group of that name where another package has one. `rich_help_panel` is the heading in `dictpfl --help`.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.common.registry import installed, loaded, package_of

GROUP = "dictpfl.commands"
HEADINGS = ("Begin", "Simulate", "Use the model", "Smaller models", "Deploy")
"""Headings of help in the order in which people come to need them; others follow."""
_OURS = "dictpfl"


def join_installed(app: typer.Typer) -> list[str]:
    """Add the commands of all installed packages, dictpfl's own first; say for each that could not be added why."""
    points = sorted(installed(GROUP), key=lambda point: (not package_of(point).startswith(f"{_OURS} "), point.name))
    if not points:
        return ["no commands are installed: install dictpfl by pip, a checkout by `pip install -e .`"]
    problems = []
    for point in points:
        try:
            join(app, loaded(point, GROUP))
        except ConfigError as error:
            problems.append(str(error))
    return problems


def join(app: typer.Typer, other: object) -> None:
    """Add another app's commands.

    Raises:
        ConfigError: it is not a Typer app, or has a command of a name that is taken; nothing is added then.
    """
    if not isinstance(other, typer.Typer):
        raise ConfigError(f"{GROUP}: expected a typer.Typer, found {type(other).__name__}")
    name = other.info.name if isinstance(other.info.name, str) else None
    group = next((info for info in _groups(app) if name is not None and info.typer_instance.info.name == name), None)
    if name is not None and group is None:
        if name in command_names(app):
            raise ConfigError(f"{GROUP}: a command {name!r} is there already; rename the group")
        own = copy(other)  # others may join the group, and the package's object stays its own
        own.registered_commands, own.registered_groups = [*other.registered_commands], [*other.registered_groups]
        app.add_typer(own, rich_help_panel=_heading(other))
        return
    target = app if group is None else group.typer_instance
    if taken := {*command_names(target)} & {*command_names(other)}:
        raise ConfigError(f"{GROUP}: a command {min(taken)!r} is there already; rename it")
    if group is not None and not isinstance(target.info.help, str):
        target.info, group.rich_help_panel = other.info, _heading(other)
    for info in _groups(other):
        join(target, info.typer_instance)
    target.registered_commands += other.registered_commands


def command_names(app: typer.Typer) -> Iterator[str]:
    """Names of an app's commands, groups not included."""
    for info in app.registered_commands:
        if info.callback is not None:
            yield info.name or info.callback.__name__.replace("_", "-")


def _groups(app: typer.Typer) -> list[Any]:
    return [info for info in app.registered_groups if info.typer_instance is not None]


def _heading(app: typer.Typer) -> str | None:
    heading = app.rich_help_panel
    return heading if isinstance(heading, str) else None
