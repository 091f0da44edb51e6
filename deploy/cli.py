"""Command line: all commands in one place, and what an error looks like."""

from __future__ import annotations

import json
import os
import sys
import traceback
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from click import Command, Context
from typer.core import TyperGroup

from dictpfl.common.errors import ConfigError, DictPFLError, own_place
from dictpfl.common.files import in_shell, taken_back
from dictpfl.deploy import console
from dictpfl.deploy.app import cli as flower_app
from dictpfl.deploy.arguments import OUT, keep_help, refuse_nan
from dictpfl.deploy.attacks import cli as attacks
from dictpfl.deploy.audit import cli as audit
from dictpfl.deploy.ceremony import cli as ceremony
from dictpfl.deploy.compress import cli as compress
from dictpfl.deploy.compress import cut_cli
from dictpfl.deploy.compress.layers_cli import layers
from dictpfl.deploy.compress.narrow_cli import export_narrow, narrow
from dictpfl.deploy.compress.tokens_cli import tokens
from dictpfl.deploy.data import cli as data_cli
from dictpfl.deploy.describe import cli as describe_cli
from dictpfl.deploy.examples import show_examples
from dictpfl.deploy.exports import cli as exports
from dictpfl.deploy.extras import explained
from dictpfl.deploy.numbers.cli import numbers
from dictpfl.deploy.operations import cli as operations
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.review import cli as review
from dictpfl.deploy.simulation import cli as simulation
from dictpfl.deploy.studies import cli as studies
from dictpfl.deploy.units import listed, percent
from dictpfl.deploy.unread import refuse_unread
from dictpfl.deploy.watch import cli as watching

WORKFLOW = {
    "Begin": ("doctor", "new", "init", "data", "describe"),
    "Simulate": ("simulate", "watch", "inspect", "compare", "report", "attack", "audit"),
    "Use the model": ("evaluate", "personalise", "export"),
    "Smaller models": ("prune", "cut", "distil", "narrow", "tokens"),
    "Deploy": (
        "authority", "institution", "coordinator", "certificates", "bundle", "run", "status", "health", "study", "app",
    ),
}  # fmt: skip
"""Commands in the order in which people come to need them, by the heading that help shows them under."""


class _Commands(TyperGroup):
    """The commands, of which one that is interrupted ends with the shell's code for it; Typer alone says "Aborted" and 1."""

    def list_commands(self, ctx: Context) -> list[str]:
        """See click's `Group.list_commands`: by `WORKFLOW`, what is not named there last."""
        order = [name for names in WORKFLOW.values() for name in names]
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """See click's `Group.get_command`; Typer's help puts a command under its `rich_help_panel`."""
        command: Any = super().get_command(ctx, cmd_name)
        if command is not None:
            command.rich_help_panel = next((h for h, names in WORKFLOW.items() if cmd_name in names), None)
        return command  # type: ignore[no-any-return]

    def invoke(self, ctx: Context) -> Any:
        """See click's `Group.invoke`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            console.err.print("stopped")
            raise typer.Exit(simulation.INTERRUPTED) from None


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


app.command()(describe_cli.describe)
app.command()(simulation.simulate)
app.command()(simulation.compare)
app.command()(simulation.inspect)
app.command()(watching.watch)
app.command()(cut_cli.cut)
app.command()(cut_cli.distil)


class CheckpointName(StrEnum):
    """Round whose model is meant."""

    LAST = "last"
    BEST = "best"


CheckpointOption = Annotated[
    CheckpointName, typer.Option(help="last: the newest model; best: the one with the best validation figure.")
]


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder, or an institution's folder.")],
    output: Annotated[Path, typer.Option(*OUT, help="File (safetensors) or new folder to write.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="safetensors: the merged model (W0 + D T) in one file; merged: a folder that transformers or timm loads; "
            "peft: a LoRA adapter; sparse: a folder without the zeros of a model that has some; narrow: a folder with the cut of a federation "
            "that has gates; or a plug-in's name, or package.module:name.",
        ),
    ] = "safetensors",
    checkpoint: CheckpointOption = CheckpointName.LAST,
    skill: Annotated[
        str,
        typer.Option(
            "--narrow",
            metavar="SPEC",
            help="Narrow the model to one skill first, at home, as `dictpfl narrow DIR --skill SPEC` does with its defaults.",
        ),
    ] = "",
    head: Annotated[
        Literal["trim", "whole"],
        typer.Option(help="Of --format narrow; trim: the head loses the rows of classes that are not the skill's."),
    ] = "trim",
) -> None:
    """Write the model for use without dictpfl: merged under its original names, or as an adapter of its base."""
    from dictpfl.deploy.exports.columns import write_columns
    from dictpfl.deploy.exports.exporter import load_exporter
    from dictpfl.deploy.exports.formats.narrow import NarrowExporter

    use_working_directory()
    console.require_place(output)
    if skill:
        refuse_unread(
            "head", because="of --format narrow; `dictpfl narrow` has a --head of its own, and --narrow its default"
        )
        export_narrow(folder, output, skill, format_, checkpoint.value)
        return
    exporter = load_exporter(format_)
    if isinstance(exporter, NarrowExporter):
        exporter.head = head
    else:
        refuse_unread("head", because=f"of --format narrow, and --format is {format_}")
    console.say(f"{output}  {exporter.export(folder, output, checkpoint.value)}")
    if columns := write_columns(folder, output, checkpoint.value):
        console.say(f"{columns}  how its columns are prepared")


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder, or an institution's folder.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="An .npz of samples, or a file or folder of the federation's own data.source. Default: the test split of "
            "a run, the validation split of an institution."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of \\[data].")
    ] = None,
    checkpoint: CheckpointOption = CheckpointName.LAST,
) -> None:
    """Measure the federation's model on data of your own; nothing leaves this machine."""
    use_working_directory()
    from dictpfl.deploy.exports.evaluation import evaluate_on

    reached = evaluate_on(folder, data, overrides(set_), checkpoint.value)
    console.say(f"{reached.metric_name} {reached.metric:.4f}  loss {reached.loss:.4f}  samples {reached.samples}")
    if reached.reducer:
        console.say(f"measured with the token reducer {reached.reducer}; reading all tokens would be another figure")
    if reached.without:
        console.say(f"measured without {reached.without}, which the rounds have: their figures are others")
    for metric, figures in reached.figures.items():
        console.say(f"{metric}: {listed(figures) or 'no figure from these samples'}")
    if not reached.recall:
        return
    table = console.table("class", "samples", "recognised")
    for number, (count, share) in reached.recall.items():
        name = reached.names[number] if number < len(reached.names) else str(number)
        table.add_row(name, str(count), percent(share))
    console.out.print(table)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="CONFIG.toml")] = Path("federation.toml"),
    minimal: Annotated[bool, typer.Option("--minimal", help="A few lines that run as they are.")] = False,  # noqa: FBT002
    tabular: Annotated[bool, typer.Option("--tabular", help="For tables, prepared by pooled statistics.")] = False,  # noqa: FBT002
    images: Annotated[bool, typer.Option("--images", help="For folders of pictures.")] = False,  # noqa: FBT002
    text: Annotated[bool, typer.Option("--text", help="For texts, with a model of transformers.")] = False,  # noqa: FBT002
) -> None:
    """Write a configuration to start from: every key with its meaning, or a short one for a kind of data."""
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


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="Folder to make; its name is the federation's.")],
) -> None:
    """Make a project folder that runs: model, data, task, configuration, README and a test."""
    from dictpfl.deploy.projects import write_project

    console.require_place(folder)
    names = write_project(folder)
    console.say(
        f"{folder} written: {', '.join(names)}\n`cd {in_shell(folder)}; dictpfl simulate federation.toml --engine local` runs it"
    )


@app.command()
def doctor(
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Check a party's folder of a deployment as well.")
    ] = None,
    plugins: Annotated[bool, typer.Option("--plugins", help="List what can be added by name, and by whom.")] = False,  # noqa: FBT002
) -> None:
    """Check this machine: versions, processors, CKKS, Flower; exit code 1 if something needed is missing."""
    if plugins:
        refuse_unread("folder", because="--plugins lists what can be added, and checks nothing")
        use_working_directory()
        _list_plugins()
        return
    from rich.table import Table
    from rich.text import Text

    from dictpfl.deploy.doctor import checks, deployment_checks

    table, failed = Table("", "check", "found", box=None), False
    for check in [*checks(), *(deployment_checks(folder) if folder is not None else ())]:
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


app.add_typer(flower_app.commands, name="app")
app.add_typer(operations.commands)
app.add_typer(ceremony.authority, name="authority")
app.add_typer(ceremony.institution, name="institution")
app.add_typer(studies.commands, name="study")
app.add_typer(data_cli.data, name="data")
ceremony.audit.command()(audit.crypto)
ceremony.audit.command()(layers)
ceremony.audit.command()(numbers)
app.add_typer(ceremony.audit, name="audit")
app.command()(exports.personalise)
app.command()(compress.prune)
app.command()(tokens)
app.command()(narrow)
app.command()(attacks.attack)
app.command()(review.report)
show_examples(app)


def main() -> None:
    """Entry point: an error is one clear paragraph and exit code 1; a traceback that nobody asked for is a defect of this project."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
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
