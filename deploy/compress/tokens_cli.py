"""`dictpfl tokens`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.common.files import write_private
from dictpfl.deploy import console
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.unread import refuse_unread

if TYPE_CHECKING:
    from dictpfl.deploy.compress.tokens import Look

commands = typer.Typer()

_DRAWN = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp")
_ENDINGS = (".gif", ".webp", ".tif", ".tiff", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


@commands.command(rich_help_panel="Smaller models")
def tokens(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A clip's file; or a run's or an institution's folder, or transformers:FOLDER, timm:NAME.",
        ),
    ],
    keep: Annotated[float, typer.Option(min=0.001, max=0.999, help="Share of the tokens that stays.")] = 0.1,
    reducer: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a clip: fastvid (default), dtm, salient, tome, grid, frames, random. Of a model: those to compare beside the usual ones."
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the reducer of a clip, such as c=4 or d=1.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG to write: frames of the clip, kept tokens bright, cuts between scenes.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, max=1024, help="Frames of the clip that are looked at.")] = 32,
    fps: Annotated[
        float,
        typer.Option(
            min=0.0, max=1000.0, help="Frames of a second, from the first on; 0: evenly spaced over the clip."
        ),
    ] = 0.0,
    side: Annotated[int, typer.Option(min=1, max=28, help="Tokens on each side of a frame, without an encoder.")] = 8,
    encoder: Annotated[
        str, typer.Option(help="timm:FOLDER or timm:NAME: a vision transformer whose patches are the tokens.")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(metavar="CONFIG.toml", help="\\[data] and \\[training] of a model of a library.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="An .npz of samples, or a file or folder of data.source.")] = None,
    measure: Annotated[
        Path | None, typer.Option(help="Samples to measure on; default: the test split, or the validation split.")
    ] = None,
) -> None:
    """Show what a reducer leaves of a clip, or measure a model that reads fewer tokens, without a federation.

    Of a clip it prints how many tokens stay, where scenes begin, and the milliseconds; --picture draws it. Of a model it prints one table:
    tokens that a layer reads, multiply-adds of the layers as a share of those on all tokens, the metric, the loss and the time, of all
    tokens and of each rule at the same `keep`: a rule between layers leaves the first one all tokens, so it reads more. A reducer that a run was trained with has a row of its own, and is taken off for the others.

    Example: `dictpfl tokens clip.mp4 --keep 0.125 --picture kept.png`
    """
    use_working_directory()
    if Path(source).suffix.lower() in _ENDINGS:
        if config or data or measure:
            raise ConfigError(f"{source} is a clip; --config, --data and --measure are of a model: leave them out")
        if reducer and len(reducer) > 1:
            raise ConfigError(f"{source}: one picture shows one reducer, found {', '.join(reducer)}; name one")
        if encoder:
            refuse_unread("side", because=f"{encoder} has patches of its own")
        _clip(Path(source), keep, (reducer or ["fastvid"])[0], option, picture, frames, fps, side, encoder)
        return
    refuse_unread(
        "picture",
        "option",
        "encoder",
        "frames",
        "fps",
        "side",
        because=f"of a clip ({', '.join(_ENDINGS)}), and {source} is none",
    )
    from dictpfl.deploy.compress.source import read_source
    from dictpfl.deploy.compress.tokens import compared

    found = compared(
        read_source(source, config=config, data=data, measure=measure, deciding=False), keep, reducer or []
    )
    table = console.table("arm", "read a layer", "products", "metric", "loss", "ms a sample")
    for row in found.rows:
        read = "all" if row.read != row.read else f"{row.read:.1f}"
        table.add_row(
            row.arm, read, f"{row.products:.2f}", f"{row.metric:.4f}", f"{row.loss:.4f}", f"{row.milliseconds:.2f}"
        )
    console.out.print(table)
    console.remark(found.notes)


def _clip(
    clip: Path,
    keep: float,
    reducer: str,
    option: list[str] | None,
    output: Path | None,
    frames: int,
    fps: float,
    side: int,
    encoder: str,
) -> None:
    from PIL import Image

    from dictpfl.deploy.compress.tokens import look, picture

    if output is not None:
        if output.suffix.lower() not in _DRAWN:
            raise ConfigError(
                f"--picture {output}: expected a name that ends in {', '.join(_DRAWN)}, such as {output.stem}.png"
            )
        if output.exists() and clip.exists() and output.samefile(clip):
            raise ConfigError(f"--picture {output} is the clip itself, which it would replace; name another file")
        console.require_place(output)
    said: dict[str, Any] = dict(overrides(option, "--option", "tau=0.9"))
    seen = look(clip, reducer=reducer, keep=keep, frames=frames, side=side, encoder=encoder, options=said, fps=fps)
    _say(seen, reducer, said)
    if output is not None:
        drawn = io.BytesIO()
        picture(seen).save(drawn, format=Image.registered_extensions()[output.suffix.lower()])
        write_private(output, drawn.getvalue())  # frames of somebody's clip
        console.say(f"{output}: kept tokens are bright, merged ones framed, a red bar stands before each segment")


def _say(seen: Look, reducer: str, said: dict[str, Any]) -> None:
    whole = len(seen.images) * seen.side**2
    merged = int(seen.reduced.merged.sum())
    named = f" {json.dumps(said)}" if said else ""
    console.say(
        f"{reducer}{named}: {seen.kept} of {whole} tokens stay ({len(seen.images)} frames of {seen.side} x {seen.side}), "
        f"{merged} of them merged, in {seen.milliseconds:.1f} ms"
    )
    if seen.cuts:
        console.say(f"segments begin at frames {', '.join(map(str, seen.cuts))}")
