"""`dictpfl personalise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def personalise(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An institution's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder to write.")],
    checkpoint: Annotated[
        Literal["last", "best"], typer.Option(help="The federation's model to start from: the newest, or the best.")
    ] = "last",
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the institution's training samples.")] = 20,
    layers: Annotated[int, typer.Option(min=1, help="Last layers with weights that are trained.")] = 1,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="0: that of the federation's dense parameters.")] = 0.0,
) -> None:
    """Train the model's last layers on an institution's own data, after the federation; nothing leaves this machine."""
    from deploy.exports.personal import write_personal

    found = write_personal(folder, output, checkpoint=checkpoint, epochs=epochs, layers=layers, rate=learning_rate)
    if not found.epochs:
        typer.echo("no epoch made the model better on the samples held out: its head stays the federation's")
    typer.echo(
        f"{output}  {found.metric_name} {found.before:.4f} before, {found.after:.4f} after {found.epochs} epochs, on "
        f"{found.validation} validation samples; {found.parameters} values trained on {found.trained} samples"
    )
