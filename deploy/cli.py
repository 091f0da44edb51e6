"""Command line: commands of all installed packages together, and what an error looks like."""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from click import Context
from typer.core import TyperGroup

from dictpfl.common.errors import DictPFLError, own_place
from dictpfl.deploy import console
from dictpfl.deploy.arguments import keep_help, refuse_nan
from dictpfl.deploy.commands import HEADINGS, join_installed
from dictpfl.deploy.extras import explained
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.unread import refuse_unread


class _Commands(TyperGroup):
    """The commands, of which one that is interrupted ends with the shell's code for it; Typer alone says "Aborted" and 1."""

    def list_commands(self, ctx: Context) -> list[str]:
        """See click's `Group.list_commands`: in the order of `HEADINGS`, then as they were joined."""

        def rank(name: str) -> int:
            heading = getattr(self.get_command(ctx, name), "rich_help_panel", None)
            return HEADINGS.index(heading) if heading in HEADINGS else len(HEADINGS)

        return sorted(super().list_commands(ctx), key=rank)

    def invoke(self, ctx: Context) -> Any:
        """See click's `Group.invoke`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console.err.print("stopped")
            raise typer.Exit(console.INTERRUPTED) from None


keep_help()
refuse_nan()
app = typer.Typer(
    name="dictpfl",
    cls=_Commands,
    help="Federated fine-tuning on encrypted updates: decomposed, pruned by history, added under CKKS without a key.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click names near commands itself
)


def _version(wanted: bool) -> None:  # noqa: FBT001 -- as Typer calls it
    if wanted:
        console.say(f"dictpfl {version('dictpfl')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[  # noqa: FBT002
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    __: Annotated[  # noqa: FBT002
        bool, typer.Option("--verbose", "-v", help="Show the traceback of an error in code of your own.")
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel="Begin")
def doctor(
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Check a party's folder of a deployment as well.")
    ] = None,
    plugins: Annotated[bool, typer.Option("--plugins", help="List what can be added by name, and by whom.")] = False,  # noqa: FBT002
) -> None:
    """Check this machine: versions, processors, CKKS, Flower; exit code 1 if something needed is missing.

    Example: `dictpfl doctor --folder institution`
    """
    if plugins:
        refuse_unread("folder", because="--plugins lists what can be added, and checks nothing")
        use_working_directory()
        _list_plugins()
        return
    from rich.table import Table
    from rich.text import Text

    from dictpfl.deploy.doctor import checks

    table, failed = Table("", "check", "found", box=None), False
    for check in checks(folder):
        failed |= check.ok is False
        mark = {True: "[green]ok[/]", False: "[red]FAIL[/]", None: "[yellow]note[/]"}[check.ok]
        table.add_row(mark, check.name, Text(check.found))  # as it is: an extra's name stands in brackets
    console.out.print(table)
    if failed:
        raise typer.Exit(1)


def _list_plugins() -> None:
    """Print all parts by door; exit code 1 if one cannot be loaded."""
    from rich.text import Text

    from dictpfl.deploy.plugins import doors

    listing, broken = console.table(), False
    for heading in ("named by", "name", "from", "is"):
        listing.add_column(heading, overflow="fold")
    for door in doors():
        if door.problem:
            listing.add_row(door.kind, Text("none", style="yellow"), "", door.problem)
        for part in door.parts:
            broken |= bool(part.problem)
            listing.add_row(
                door.key,
                part.name,
                part.package or "dictpfl",
                Text(part.problem, style="red") if part.problem else part.where,
            )
    console.out.print(listing)
    if broken:
        raise typer.Exit(1)


_problems = join_installed(app)


def main() -> None:
    """Entry point: an error is one clear paragraph and exit code 1; a traceback that nobody asked for is a defect of this project."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    for problem in _problems:
        console.err.print(f"warning: {problem}", markup=False, highlight=False, soft_wrap=True)
    try:
        app()
    except DictPFLError as error:
        _refuse(error.code, str(error), error)
    except ModuleNotFoundError as error:
        reason = explained(error, f"dictpfl {' '.join(sys.argv[1:2])}")
        if reason is None:
            _refuse_own(error)
        _refuse(reason.code, str(reason), reason)
    except json.JSONDecodeError as error:
        _refuse("damaged", f"a file of this run is damaged: {error}", error)
    except OSError as error:
        # Disks fill and folders vanish under any command; a traceback would say no more.
        place = f": {error.filename}" if error.filename else ""
        _refuse(
            "system",
            f"{error.strerror or error}{place}; expected a place that exists, that you may use, and that has room. Mend that, and "
            "repeat the command (`simulate` with --resume)",
            error,
        )
    except Exception as error:  # noqa: BLE001 -- of the user's model, data or task; others are raised again
        _refuse_own(error)


def _refuse_own(error: Exception) -> NoReturn:
    """Tell of an error that nobody foresaw: one of the user's own code in a sentence, one of this project's with its traceback."""
    if not own_place(error):
        raise error
    _refuse("own code", f"{type(error).__name__}: {str(error) or 'without a word'}", error)


def _refuse(code: str, text: str, error: Exception) -> NoReturn:
    is_verbose, place = bool({"-v", "--verbose"} & set(sys.argv)), own_place(error)
    if place:
        text += f". It arose in {place}" + ("" if is_verbose else "; `dictpfl -v ...` shows the traceback")
    console.err.print(f"[bold red]error[/] ({code}): ", end="")
    console.err.print(text, markup=False, highlight=False, soft_wrap=True)
    if is_verbose and (place or error.__cause__):
        traceback.print_exception(error)
    sys.exit(1)


if __name__ == "__main__":
    main()
