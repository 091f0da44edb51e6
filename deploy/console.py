"""The terminal of all commands: wide enough to read in a pipe, where it has neither width nor colours."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from dictpfl.common.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

PIPE_WIDTH = 120
"""Columns where there is no terminal to ask."""
INTERRUPTED = 130
"""Exit code of a command that the user stopped, as shells have it."""


def console(*, stderr: bool = False, width: int = PIPE_WIDTH) -> Console:
    """Return a console of the terminal's own width, or of at least `width` columns where there is no terminal."""
    own = Console(stderr=stderr)
    return own if own.is_terminal else Console(stderr=stderr, width=max(width, own.width))


out, err = console(), console(stderr=True)


def say(text: str) -> None:
    """Print a line on standard output as it is: not wrapped, no markup."""
    typer.echo(text)


def one_line(text: str) -> str:
    """Return what others wrote as it may be printed: what begins a line or steers a terminal is written out as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def warn_insecure(reasons: Iterable[str]) -> None:
    """Print a line on standard error for each reason why a federation protects nobody."""
    for reason in reasons:
        err.print(f"[bold red]INSECURE[/] (toy_insecure): {reason}", soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning on standard error."""
    _marked("[bold yellow]warning[/] ", text)


def remark(notes: Iterable[str]) -> None:
    """Print a line on standard error for each thing that is not as it should be."""
    for note in notes:
        _marked("[yellow]note[/]: ", note)


def _marked(mark: str, text: str) -> None:
    """Print a mark with markup, and behind it text without: names in it may hold brackets."""
    err.print(mark, end="")
    err.print(text, soft_wrap=True, markup=False, highlight=False)


def table(*headings: str, title: str | None = None) -> Table:
    """Return an empty table whose columns stand to the right, and whose texts stand as they are."""
    from rich.markup import escape

    from dictpfl.deploy.tables import Plain

    made = Plain(title=None if title is None else escape(title), title_justify="left", box=None)
    for heading in headings:
        made.add_column(heading, justify="right")
    return made


def require_place(output: Path) -> None:
    """Check, before anything is computed, that a file or folder can be made at this path.

    Raises:
        ConfigError: its folder is not there, or may not be written.
    """
    folder = output.parent
    if not folder.is_dir():
        raise ConfigError(
            f"cannot write {output}: expected a folder {folder}, found none; make it, or name another place"
        )
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {output}: {folder} may not be written by you; name another place")
    if output.is_file() and not os.access(output, os.W_OK):
        raise ConfigError(f"cannot write {output}: it may not be written by you; name another file")
