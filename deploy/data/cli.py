"""`dictpfl data`: an institution's own data, prepared at home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dictpfl.deploy import console
from dictpfl.deploy.extras import require
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.units import counted

commands = typer.Typer(
    name="data",
    rich_help_panel="Begin",
    help="Prepare an institution's own data, as the federation agreed.",
    no_args_is_help=True,
    suggest_commands=False,
)


@commands.command()
def prepare(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="File or folder with this institution's samples; default: data.path."),
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", help="The institution's folder.")] = Path("institution"),
    config: Annotated[
        Path | None, typer.Option(help="The federation's configuration, as long as the folder has no genesis.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="What is otherwise here: a key of \\[data], such as data.label=outcome."
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over what was prepared before.")] = False,  # noqa: FBT002
) -> None:
    """Turn a table, texts or images into train.npz and validation.npz, by the options that all agreed on.

    Example: `dictpfl data prepare patients.csv --folder institution`
    """
    require("institution", "data prepare")
    use_working_directory()
    from dictpfl.deploy.data.preparing import prepare as run

    prepared = run(folder, path, config=config, changes=overrides(set_), replace=replace)
    for file, count in prepared.files.items():
        console.say(f"{file}  {counted(count, 'sample')}")
    console.say(f"sample shape {'x'.join(map(str, prepared.sample_shape))}, outputs {prepared.outputs}")
    if prepared.features:
        console.say(f"features {', '.join(prepared.features)}")
    console.remark(prepared.notes)
    if prepared.counts:
        table = console.table("class", "samples")
        for number, count in enumerate(prepared.counts):
            table.add_row(prepared.classes[number] if number < len(prepared.classes) else str(number), str(count))
        console.out.print(table)
