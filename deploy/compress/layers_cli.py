"""Command `dictpfl audit layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.compress.cli import (
    CheckpointOption,
    ConfigOption,
    DataOption,
    DeviceOption,
    SeedOption,
    SetOption,
    SourceArgument,
    refuse_checkpoint,
)
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.units import counted, percent
from dictpfl.deploy.unread import refuse_unread

audit = typer.Typer(name="audit")

_MEASURED = ("set_", "measure", "training", "validation", "seed", "device", "solver", "damping", "part", "top")
"""Options of what is measured here."""


@audit.command()
def layers(
    source: SourceArgument,
    output: Annotated[Path, typer.Option(*OUT, help="New folder for layers.json and layers.svg.")],
    list_: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--list",
            help="Of an institution: list its own training samples by influence, in its folder alone (influence.json).",
        ),
    ] = False,
    own: Annotated[  # noqa: FBT002
        bool, typer.Option("--own", help="Measure on samples here, even where a federation has tallied its map.")
    ] = False,
    training: Annotated[
        int, typer.Option(min=0, max=1000, help="Training samples, drawn by seed; 0: all, at most 1,000.")
    ] = 64,
    validation: Annotated[int, typer.Option(min=0, help="Validation samples, drawn by seed; 0: all.")] = 32,
    solver: Annotated[
        Literal["exact", "datainf", "none"],
        typer.Option(
            help="exact: damped inverse of the Hessian; datainf: its closed approximation; none: gradients' products."
        ),
    ] = "exact",
    damping: Annotated[
        float, typer.Option(help="Of the inverse, as a share of the mean squared gradient entry.")
    ] = 0.1,
    part: Annotated[
        Literal["positive", "negative", "absolute"],
        typer.Option(help="Samples that count: those above 0, below, or all."),
    ] = "positive",
    top: Annotated[float, typer.Option(help="Share of these that counts, the largest.")] = 0.25,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    measure: Annotated[
        Path | None,
        typer.Option(
            help="Validation samples, in place of the test split of a run, the validation split of an institution."
        ),
    ] = None,
    seed: SeedOption = 1,
    device: DeviceOption = "auto",
    checkpoint: CheckpointOption = "last",
) -> None:
    """Map which layers single training samples move far (LayerIF): as a federation tallied it, or from samples on this machine.

    A run that tallied `layerif` shows the map of all its institutions. Anything else is measured here; nothing is sent.

    Example: `dictpfl audit layers runs/mine/institutions/institution-000 --list -o map`
    """
    use_working_directory()
    from dictpfl.client.compress.influence.layers import Measure
    from dictpfl.deploy.compress.layers import Found, measured, pooled, write_layers, write_samples
    from dictpfl.deploy.compress.source import read_source
    from dictpfl.deploy.compress.written import standing
    from dictpfl.deploy.exports.exporter import new_folder, refuse_full
    from dictpfl.deploy.exports.finished import Finished

    refuse_full(output)
    if solver == "none":
        refuse_unread("damping", because="of the inverse of a Hessian, and --solver none takes none")
    refuse_checkpoint(source)
    chosen = Measure(solver, damping, part, top)
    if list_:
        because = "--list is of the institution's own training samples"
        refuse_unread("data", because=because)
        if moved := [pair for pair in set_ or [] if pair.strip().startswith("data.")]:
            raise ConfigError(f"--set {moved[0]}: {because}; leave it out")
    maps = (
        ()
        if own
        or list_
        or config is not None
        or data is not None
        or not Path(source).is_dir()
        or standing(source) is not None
        else pooled(Finished.load(source, checkpoint))
    )
    if maps:
        refuse_unread(
            *_MEASURED,
            because=f"of own samples, and {source} shows the map that its institutions tallied, as [tallies] of its configuration says; --own "
            "measures here",
        )
        found = Found(maps)
    else:
        read = read_source(
            source, config=config, data=data, settings=set_, seed=seed, measure=measure, checkpoint=checkpoint
        )
        found = measured(read, chosen, training=training, validation=validation, seed=seed, device=device)
    listed = write_samples(found, read, Path(source)) if list_ else None
    with new_folder(output, private=True):
        write_layers(found, output)
    last = found.scores[-1]
    table = console.table("block", "influence", "gradient norm", title=f"layers, {last.when}")
    for name, block in last.blocks.items():
        table.add_row(name, percent(block.influence), percent(block.gradient))
    console.out.print(table)
    whose = (
        f"{counted(last.institutions, 'institution')} together"
        if last.institutions
        else f"{last.training} training and {last.validation} validation samples"
    )
    console.say(
        f"shares of all blocks, of {whose}; solver {last.solver}; the higher, the further do single samples move a block  {output}"
    )
    if not any(block.influence for block in last.blocks.values()):
        console.say(
            "every influence is 0: nobody had both training and validation samples to score by (data.validation_share), no sample has the sign "
            "that `part` counts, or nothing that was learnt moves the validation loss"
        )
    if listed is not None:
        console.say(f"own samples by influence, for this institution alone  {listed}")
