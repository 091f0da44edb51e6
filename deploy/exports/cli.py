"""`dictpfl personalise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.own_modules import use_working_directory


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
    """Train the model's last layers on an institution's own data, after the federation; nothing leaves this machine."""
    use_working_directory()
    from dictpfl.deploy.exports.personal import write_personal

    personal = write_personal(folder, output, checkpoint=checkpoint, epochs=epochs, layers=layers, rate=learning_rate)
    if not personal.epochs:
        console.say("no epoch made the model better on the samples held out: its head stays the federation's")
    console.say(
        f"{output}  {personal.metric_name} {personal.before:.4f} before, {personal.after:.4f} after {personal.epochs} epochs, on "
        f"{personal.validation} validation samples; {personal.parameters} values trained on {personal.trained} samples"
    )
