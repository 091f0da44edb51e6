"""`dictpfl prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import replace_private
from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.units import human_bytes, human_seconds, percent
from dictpfl.deploy.unread import refuse_unread

if TYPE_CHECKING:
    from dictpfl.deploy.compress.pruning import Outcome

commands = typer.Typer()

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of a run or an institution; with --config, one of `cut` or `distil`, transformers:FOLDER or timm:NAME.",
    ),
]
OutputOption = Annotated[Path, typer.Option(*OUT, help="New folder to write.")]
ConfigOption = Annotated[
    Path | None, typer.Option(metavar="CONFIG.toml", help="\\[data] and \\[training] of what is no federation's.")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Samples to decide by: an .npz, or a file or folder of data.source. Default: an institution's own, a run's public share."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of \\[data] or \\[training].")
]
CalibrationOption = Annotated[int, typer.Option(min=0, help="Samples to decide by, drawn by seed; 0: all.")]
MeasureOption = Annotated[
    Path | None,
    typer.Option(
        help="Samples to measure before and after. Default: the test split of a run, the validation split of an institution."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of what is drawn.")]
MaxTokensOption = Annotated[
    int, typer.Option(min=0, help="Of a text to decide by; longer ones are cut. 0: as the data are.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
CheckpointOption = Annotated[
    Literal["last", "best"], typer.Option(help="The federation's model to start from: the newest, or the best.")
]


def refuse_checkpoint(*names: str) -> None:
    """Refuse --checkpoint where no model of a command is a federation's.

    Args:
        names: of the models, as the command takes them.

    Raises:
        ConfigError: it was typed, or a name leads to a folder that cannot be gone on with.
    """
    from dictpfl.deploy.compress.written import standing

    if all(standing(name) is not None for name in names):
        refuse_unread(
            "checkpoint",
            because=f"of a federation's model, and {' and '.join(names)} {'is' if len(names) == 1 else 'are'} none",
        )


@commands.command(rich_help_panel="Smaller models")
def prune(
    source: SourceArgument,
    output: OutputOption,
    sparsity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the covered weights that becomes zero.")
    ] = 0.5,
    method: Annotated[
        Literal["magnitude", "wanda", "sparsegpt", "lua"],
        typer.Option(
            help="magnitude: the smallest go; wanda: the smallest times their inputs' norms, row by row; sparsegpt: as the inputs' "
            "correlations say, and what stays makes up for it; lua (experimental): as wanda, by a threshold for each row that is learnt."
        ),
    ] = "wanda",
    allocate: Annotated[
        Literal["uniform", "global", "alpha", "owl", "layerif", "reversed", "random", "gradient"],
        typer.Option(
            help="uniform: the same share of every weight; global: one threshold over all; alpha: more of the blocks whose spectra have light "
            "tails (AlphaPruning); owl: of those with few outliers; layerif: of those that single samples move far, by --scores or the samples "
            "to decide by; reversed, random, gradient: arms beside it."
        ),
    ] = "uniform",
    scores: Annotated[
        Path | None,
        typer.Option(metavar="LAYERS.json", help="Of layerif and its arms: scores that `dictpfl audit layers` wrote."),
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(
            help="Of layerif, its arms and alpha: how far shares lie apart, from 0 to below 1; 0.3 by default."
        ),
    ] = None,
    pattern: Annotated[str, typer.Option(help="2:4: two of every four neighbours stay, in place of --sparsity.")] = "",
    at_once: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--at-once", help="Calibrate all weights on the dense model; else part by part, on what was pruned before."
        ),
    ] = False,
    cover: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of the weights to prune, in place of the default (no head, no embeddings)."),
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Pattern of weights that stay whole.")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    calibration: CalibrationOption = 64,
    max_tokens: MaxTokensOption = 0,
    measure: MeasureOption = None,
    seed: SeedOption = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of lua: steps, of training.batch_size samples; 120 by default.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.0, help="Of lua: about how far a threshold moves a step; 0.01 by default.")
    ] = None,
    regularisation: Annotated[
        float | None, typer.Option(min=0.0, help="Of lua: strength of the pull to the wanted share; 16 by default.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...; training.device by default.")] = None,
    checkpoint: CheckpointOption = "last",
    format_: Annotated[
        Literal["merged", "sparse"],
        typer.Option(
            "--format",
            help="merged: a folder that transformers or timm loads, with zeros; sparse: packed, for dictpfl.load_sparse.",
        ),
    ] = "merged",
    picture: Annotated[
        Path | None, typer.Option(help="SVG, PNG or PDF to write: what stays of each part, and the spread of its rows.")
    ] = None,
) -> None:
    """Zero a share of a model's weights, exactly, by samples that stay on this machine.

    Example: `dictpfl prune runs/mine/institutions/institution-000 --sparsity 0.6 --format sparse -o sparse`
    """
    use_working_directory()
    if picture is not None:
        _require_drawn(picture)
    from dictpfl.deploy.compress.pruning import learning, pattern_of, scoring, write_pruned
    from dictpfl.deploy.compress.source import read_source

    refuse_checkpoint(source)
    if pattern:
        refuse_unread("sparsity", because=f"--pattern {pattern} says how many entries go")
    if method != "wanda" or allocate == "global":
        refuse_unread(
            "at_once", because=f"of wanda weight by weight, and here --method is {method}, --allocate {allocate}"
        )
    by_size = method == "magnitude" and (allocate in ("uniform", "global", "alpha") or scores is not None)
    if by_size:
        refuse_unread("calibration", "max_tokens", because="magnitude looks at no sample")
    options = scoring(allocate, scores, spread) | learning(
        method, set_ or [], steps=steps, rate=rate, regularisation=regularisation
    )
    read = read_source(
        source,
        config=config,
        data=data,
        settings=set_,
        calibration=calibration,
        seed=seed,
        measure=measure,
        checkpoint=checkpoint,
        max_tokens=max_tokens,
        deciding=not by_size,
    )
    training = read.config.training
    outcome = write_pruned(
        read, output, **options, sparsity=sparsity, method=method, form=format_, seed=seed, pattern=pattern_of(pattern), allocate=allocate,
        sequential=not at_once, cover=cover or [], keep=keep or [], device=training.device if device is None else device, training=training,
    )  # fmt: skip
    _show(outcome, output)
    if picture is not None:
        _draw(outcome, picture)


_DRAWN = (".svg", ".png", ".pdf")


def _require_drawn(picture: Path) -> None:
    if picture.suffix.lower() not in _DRAWN:
        raise ConfigError(f"--picture {picture}: expected the name of a picture, one of {', '.join(_DRAWN)}")
    console.require_place(picture)


def _draw(outcome: Outcome, picture: Path) -> None:
    from dictpfl.deploy.reports.plots import kept_by_part

    pruned = outcome.pruned
    blocks = pruned.masks.facts({name: weight.block for name, weight in pruned.weights.items()})["blocks"]
    figure = kept_by_part(blocks)
    replace_private(picture, lambda made: figure.savefig(made, format=picture.suffix[1:].lower(), dpi=150))
    console.say(f"{picture}: diamonds are whole parts, boxes the quartiles of their rows")


def _show(outcome: Outcome, output: Path) -> None:
    figures, masks = outcome.figures, outcome.pruned.masks
    table = console.table("part", "entries", "kept")
    for block, part in figures["blocks"].items():
        table.add_row(block, f"{part['entries']:,}", percent(part["kept"] / part["entries"]))
    console.out.print(table)
    for name, before, after in (
        (figures["metric"], figures["before"]["metric"], figures["after"]["metric"]),
        ("loss", figures["before"]["loss"], figures["after"]["loss"]),
    ):
        console.say(f"{name} {before:.4f} before, {after:.4f} after, on {figures['measured']} samples")
    size = figures["bytes"]
    packed = f", packed {human_bytes(size['packed'])}" if size["packed"] else ""
    console.say(
        f"kept {masks.kept:,} of {masks.total:,} entries ({percent(masks.kept / masks.total)}); masks {masks.digest}"
    )
    console.say(f"bytes dense {human_bytes(size['dense'])}, zipped {human_bytes(size['zipped'])}{packed}")
    seconds = figures["seconds"]
    console.say(
        f"zeros save size; they save time only in a runtime that is told of them: measuring took {human_seconds(seconds['before'])} "
        f"before and {human_seconds(seconds['after'])} after"
    )
    console.say(f"{output}")
