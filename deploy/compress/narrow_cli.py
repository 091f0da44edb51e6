"""`dictpfl narrow`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.compress.cli import refuse_checkpoint
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.unread import refuse_unread

if TYPE_CHECKING:
    from dictpfl.deploy.compress.narrowing import Asked
    from dictpfl.deploy.exports.narrow_report import NarrowReport

commands = typer.Typer()


class Method(StrEnum):
    """Way to take a skill out of a model."""

    GATES = "gates"
    LASSO = "lasso"
    ABLATION = "ablation"
    ATTRIBUTION = "attribution"
    ATTRIBUTION_ABS = "attribution-abs"
    MAGNITUDE = "magnitude"
    ACTIVATION = "activation"
    RANDOM = "random"
    SCRATCH = "scratch"
    DISTIL = "distil"
    UNCUT = "uncut"


@commands.command(rich_help_panel="Smaller models")
def narrow(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of a run or an institution; with --config, one of `cut` or `distil`, transformers:FOLDER or timm:NAME.",
        ),
    ],
    skill: Annotated[
        str,
        typer.Option(
            help="The skill to keep: classes=NAME,NAME (patterns with * too), column=VALUE, text=FILE, or all."
        ),
    ],
    output: Annotated[Path, typer.Option(*OUT, help="New folder to write.")],
    config: Annotated[
        Path | None, typer.Option(help="File with \\[data] and \\[training], for what is no federation's.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Samples to narrow on: an .npz, or what data.path may be.")] = None,
    measure: Annotated[Path | None, typer.Option(help="Samples to measure on. Default: the test split.")] = None,
    method: Annotated[
        Method, typer.Option(help="gates and lasso penalise units while the skill is trained; others cut by a score.")
    ] = Method.GATES,
    keep: Annotated[
        float,
        typer.Option(
            help="Units that stay of each layer: a share below 1 (at least one unit stays), or a whole number."
        ),
    ] = 0.25,
    steps: Annotated[int, typer.Option(min=0, help="Optimiser steps on the skill before the cut.")] = 300,
    recover: Annotated[int, typer.Option(min=0, help="Steps after it.")] = 300,
    penalty: Annotated[float, typer.Option(min=0.0, help="Factor of the penalty of gates or lasso.")] = 1e-2,
    rate: Annotated[float, typer.Option(min=0.0, help="Learning rate of gates.")] = 1e-2,
    tables: Annotated[int, typer.Option(min=0, help="Rank of tables that are trained beside gates; 0: none.")] = 0,
    axes: Annotated[str, typer.Option(help="Kinds of units that are cut, with commas; gates need ffn alone.")] = "ffn",
    dropped: Annotated[str, typer.Option(help="A skill whose relearning is audited, as --skill; empty: none.")] = "",
    relearn: Annotated[str, typer.Option(help="Numbers of steps of the audit, with commas.")] = "30,100,300",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the audit; one shows no interval.")] = 3,
    head: Annotated[
        Literal["trim", "whole"], typer.Option(help="trim: the head loses the rows of other classes.")
    ] = "trim",
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of batches and draws.")] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of \\[data] or \\[training].")
    ] = None,
    checkpoint: Annotated[
        Literal["last", "best"], typer.Option(help="Of a federation: the newest model, or the best.")
    ] = "last",
) -> None:
    """Take one skill out of a general model as a smaller plain model; with --dropped, measure how hard another is to relearn.

    Example: `dictpfl narrow runs/mine/institutions/institution-000 --skill 'classes=0,1,2' --dropped 'classes=8,9'
    -o small`
    """
    use_working_directory()
    from dictpfl.client.compress.narrow.phases import Narrowing
    from dictpfl.deploy.compress.narrowing import Asked, write_narrow
    from dictpfl.deploy.compress.source import read_source

    kinds = tuple(one for one in axes.split(",") if one)
    if method is Method.GATES and kinds != ("ffn",):
        raise ConfigError(
            f"--axes {axes}: gates stand in front of feed-forward neurons alone; use --axes ffn, or another method"
        )
    _require_read(method, skill, dropped, head)
    refuse_checkpoint(source)
    how = Narrowing(method.value, keep, steps, recover, penalty, rate, tables, seed)
    asked = Asked(how, skill, dropped, _counts(relearn), seeds, kinds, head == "trim")
    read = read_source(
        source, config=config, data=data, settings=set_, seed=seed, measure=measure, checkpoint=checkpoint
    )
    show(output, write_narrow(read, asked, output), asked)


def _require_read(method: Method, skill: str, dropped: str, head: str) -> None:
    """Refuse options that this method, or this skill, does not read."""
    if method is not Method.GATES:
        refuse_unread("rate", "tables", because=f"of gates, and --method is {method}")
        if method is not Method.LASSO:
            refuse_unread("penalty", because=f"of gates and lasso, and --method is {method}")
    if method is Method.UNCUT and not dropped:
        refuse_unread("keep", "axes", because="of a cut, and --method uncut makes none")
    if not dropped:
        refuse_unread("relearn", "seeds", because="of the audit of a skill that is dropped, and --dropped names none")
    if head == "trim" and not skill.startswith("classes="):
        refuse_unread("head", because=f"a head has rows of classes, and --skill {skill} names none")


def show(output: Path, report: NarrowReport, asked: Asked) -> None:
    """Print what was made, and what is left of the dropped skill."""
    before, cut, after = report.before, report.after_cut, report.after_recovery or report.after_cut
    console.say(
        f"{output}  {asked.skill}: {report.metric} {before.figure} before, {cut.figure} right after the cut, {after.figure} after recovery; "
        f"{before.parameters:,} to {after.parameters:,} parameters"
    )
    for audit in report.audits:
        table = console.table(
            f"{audit.skill}, head {audit.head}", "this model", "general", "never had it", "residual", "verdict"
        )
        for c in audit.curves:
            means = [f"{sum(v) / len(v):.1f}" for v in (c.arm, c.ceiling, c.floor)]
            table.add_row(f"{c.steps} steps", *means, "-" if c.residual is None else f"{c.residual:.2f}", c.verdict)
        console.out.print(table)
    for note in report.notes:
        console.say(note)


def _counts(words: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(word) for word in words.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise ConfigError(f"--relearn {words!r}: expected numbers of steps with commas, such as 30,100,300")
    return counts
