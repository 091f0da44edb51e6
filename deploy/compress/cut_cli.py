"""`dictpfl cut` and `dictpfl distil`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.deploy import console
from dictpfl.deploy.compress.cli import (
    CheckpointOption,
    ConfigOption,
    DataOption,
    MaxTokensOption,
    MeasureOption,
    OutputOption,
    SeedOption,
    SetOption,
    SourceArgument,
    refuse_checkpoint,
)
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.unread import refuse_unread

commands = typer.Typer()

TrainedOnOption = Annotated[
    Path | None, typer.Option("--data", help="Samples to train on: an .npz, or a file or folder of data.source.")
]


@commands.command(rich_help_panel="Smaller models")
def cut(
    source: SourceArgument,
    output: OutputOption,
    to: Annotated[str, typer.Option("--to", help="Parameters that stay: a share such as 0.6, or a number.")] = "",
    heads: Annotated[int | None, typer.Option(min=1, help="Heads that stay in each Mamba mixer.")] = None,
    channels: Annotated[int | None, typer.Option(min=1, help="Channels that stay in each of those heads.")] = None,
    ffn: Annotated[int | None, typer.Option(min=1, help="Neurons that stay in each feed-forward layer.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width of the residual stream.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Blocks that stay.")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    measure: MeasureOption = None,
    calibration: Annotated[int, typer.Option(min=1, help="Most samples that decide.")] = 1024,
    max_tokens: MaxTokensOption = 0,
    score: Annotated[
        str, typer.Option(help="default, activation, magnitude, attribution, ablation or random.")
    ] = "default",
    search: Annotated[
        int,
        typer.Option(
            min=0,
            help="Measure all sizes within 3 % of --to on samples that decide nothing else, distil this many of the best, keep the best.",
        ),
    ] = 0,
    most: Annotated[int, typer.Option(min=1, help="Most sizes that a search measures.")] = 200,
    steps: Annotated[int, typer.Option(min=1, help="Steps of distillation of each size that a search keeps.")] = 80,
    architecture: Annotated[
        str, typer.Option(help="Where it is not found by itself: a name, or package.module:name.")
    ] = "",
    rescale: Annotated[  # noqa: FBT002
        bool, typer.Option("--rescale", help="Norms as if the units that go were silent, not gone.")
    ] = False,
    seed: SeedOption = 1,
    checkpoint: CheckpointOption = "last",
) -> None:
    """Make a smaller model of the same class: heads, channels, neurons, width or blocks go, by what samples use least.

    Example: `dictpfl cut runs/mine/institutions/institution-000 --to 0.6 -o small`
    """
    use_working_directory()
    from dictpfl.deploy.compress import cut_folder, cutting
    from dictpfl.deploy.compress.source import read_source, with_validation

    numbers = {
        "mamba-head": heads,
        "mamba-channel": channels,
        "ffn": ffn,
        "width": width,
        "block": layers,
    }
    given = {kind: count for kind, count in numbers.items() if count is not None}
    if not to and not given:
        raise ConfigError("nothing to cut: name a size by --to, --heads, --channels, --ffn, --width or --layers")
    if search and not to:
        raise ConfigError("--search tries sizes for a number of parameters; name it by --to")
    _require_read(source, given, to=to, search=search, score=score)
    from dictpfl.deploy.exports.exporter import refuse_full

    refuse_full(output)
    read = read_source(
        source, config=config, data=data, settings=set_ or [], calibration=calibration, seed=seed, measure=measure,
        checkpoint=checkpoint, max_tokens=max_tokens,
    )  # fmt: skip
    if search:
        from dictpfl.deploy.compress.searching import searched

        read = with_validation(read, seed)
        made = searched(
            read, to=to, given=given, keep=search, most=most, steps=steps, say=console.say, score=score, seed=seed,
            architecture=architecture, rescale=rescale,
        )  # fmt: skip
    else:
        made = cutting.make(
            read, to=to, given=given, score=score, seed=seed, architecture=architecture, rescale=rescale
        )
        if not made.sampled:
            refuse_unread(
                "calibration",
                "max_tokens",
                because="no sample decides here, but magnitudes or what institutions tallied",
            )
    cut_folder.write(made, read, output, seed=seed, score=score)
    table = console.table("", "before", "after", "filled with zeros")
    for row in cutting.lines(made, read):
        table.add_row(*row)
    console.out.print(table)
    for name in made.shrunk.chosen.even:
        console.say(f"{name}: all scores were equal, so that the first units stayed")
    if made.clipped:
        console.say(cut_folder.clipped_words(made))
    console.say(f"{output}  {made.shrunk.after:,} of {made.shrunk.before:,} parameters")


def _require_read(source: str, given: Mapping[str, int], *, to: str, search: int, score: str) -> None:
    """Refuse options that this cut does not read."""
    from dictpfl.client.compress.cutting.shrink import BEST, DEFAULT

    refuse_checkpoint(source)
    if search:
        return
    refuse_unread("most", "steps", because="of a search, and --search asks for none")
    if score in ("magnitude", "random"):
        refuse_unread("calibration", "max_tokens", because=f"--score {score} looks at no sample")
    elif score == DEFAULT and not to and all(BEST[kind] == "magnitude" for kind in given):
        refuse_unread(
            "calibration",
            "max_tokens",
            because="neurons are decided by magnitude or by institutions' tally, not by samples here",
        )
    if score == "magnitude":
        refuse_unread("seed", because="--score magnitude draws nothing")


@commands.command(rich_help_panel="Smaller models")
def distil(
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            help="The model to train: a folder that `cut` wrote, with --config, or as SOURCE of `cut`.",
        ),
    ],
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            help="A folder of a run, an institution, `cut` or `distil`, or transformers:FOLDER, timm:NAME.",
        ),
    ],
    output: OutputOption,
    config: ConfigOption = None,
    data: TrainedOnOption = None,
    set_: SetOption = None,
    max_tokens: Annotated[
        int, typer.Option(min=0, help="Of a text to train on; longer ones are cut. 0: as the data are.")
    ] = 0,
    measure: MeasureOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 600,
    weight: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the teacher in the loss; at 1 no label is read.")
    ] = 1.0,
    temperature: Annotated[float, typer.Option(help="Of both softmaxes, above 0.")] = 1.0,
    seed: SeedOption = 1,
    checkpoint: CheckpointOption = "last",
) -> None:
    """Train a small model to say what a large one says, on this machine; in a federation: training.task = "distillation".

    Example: `dictpfl distil transformers:small --teacher runs/mine --config federation.toml --steps 600 -o taught`
    """
    use_working_directory()
    if not weight:
        refuse_unread("temperature", because="of the teacher's part of the loss, and --weight 0 leaves none")
    from dictpfl.deploy.compress.distilling import distil_folder

    refuse_checkpoint(student, teacher)
    said = distil_folder(
        student, teacher, output, config=config, data=data, settings=set_ or [], measure=measure, steps=steps, weight=weight,
        temperature=temperature, seed=seed, checkpoint=checkpoint, max_tokens=max_tokens,
    )  # fmt: skip
    console.say(f"{output}  {said}")
