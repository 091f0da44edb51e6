"""`dictpfl export`, `evaluate` and `personalise`: the model of a federation, and what it is worth at home."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.units import listed, percent
from dictpfl.deploy.unread import refuse_unread

commands = typer.Typer()
_PANEL = "Use the model"


class CheckpointName(StrEnum):
    """Round whose model is meant."""

    LAST = "last"
    BEST = "best"


CheckpointOption = Annotated[
    CheckpointName, typer.Option(help="last: the newest model; best: the one with the best validation figure.")
]


@commands.command(rich_help_panel=_PANEL)
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
    head: Annotated[
        Literal["trim", "whole"],
        typer.Option(help="Of --format narrow; trim: the head loses the rows of classes that are not the skill's."),
    ] = "trim",
) -> None:
    """Write the model for use without dictpfl: merged under its original names, or as an adapter of its base.

    Example: `dictpfl export runs/mine -o model.safetensors`
    """
    from dictpfl.deploy.exports.columns import write_columns
    from dictpfl.deploy.exports.exporter import load_exporter
    from dictpfl.deploy.exports.formats.narrow import NarrowExporter

    use_working_directory()
    console.require_place(output)
    exporter = load_exporter(format_)
    if isinstance(exporter, NarrowExporter):
        exporter.head = head
    else:
        refuse_unread("head", because=f"of --format narrow, and --format is {format_}")
    console.say(f"{output}  {exporter.export(folder, output, checkpoint.value)}")
    if columns := write_columns(folder, output, checkpoint.value):
        console.say(f"{columns}  how its columns are prepared")


@commands.command(rich_help_panel=_PANEL)
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
    """Measure the federation's model on data of your own; nothing leaves this machine.

    Example: `dictpfl evaluate runs/mine --data ours.npz`
    """
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


@commands.command(rich_help_panel=_PANEL)
def personalise(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An institution's folder.")],
    output: Annotated[Path, typer.Option(*OUT, help="New folder to write.")],
    checkpoint: Annotated[
        Literal["last", "best"], typer.Option(help="The federation's model to start from: the newest, or the best.")
    ] = "last",
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the institution's training samples.")] = 20,
    layers: Annotated[int, typer.Option(min=1, help="Last layers with weights that are trained.")] = 1,
    learning_rate: Annotated[
        float, typer.Option(min=0.0, help="0: the federation's, of its head and of dense parameters.")
    ] = 0.0,
) -> None:
    """Train the model's last layers on an institution's own data, after the federation; nothing leaves this machine.

    Example: `dictpfl personalise runs/mine/institutions/institution-000 --checkpoint best -o own-model`
    """
    use_working_directory()
    from dictpfl.deploy.exports.personal import write_personal

    personal = write_personal(folder, output, checkpoint=checkpoint, epochs=epochs, layers=layers, rate=learning_rate)
    if not personal.epochs:
        console.say("no epoch made the model better on the samples held out: its head stays the federation's")
    console.say(
        f"{output}  {personal.metric_name} {personal.before:.4f} before, {personal.after:.4f} after {personal.epochs} epochs, on "
        f"{personal.validation} validation samples; {personal.parameters} values trained on {personal.trained} samples"
    )
