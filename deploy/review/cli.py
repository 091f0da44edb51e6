"""`dictpfl report`: a run's report written again, or the privacy report for a review board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT
from dictpfl.deploy.own_modules import use_working_directory
from dictpfl.deploy.unread import refuse_unread

commands = typer.Typer()


@commands.command(rich_help_panel="Simulate")
def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder of a run, of an attack, of a party of a deployment, or one that holds several of these.",
        ),
    ],
    privacy: Annotated[  # noqa: FBT002
        bool, typer.Option("--privacy", help="The document for a review board, privacy.html.")
    ] = False,
    attack: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Results of `dictpfl attack` to show; default: those in DIR or in DIR/attack."
        ),
    ] = None,
    pictures: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--pictures/--no-pictures",
            help="Show reconstructed images. They stand beside the true ones: training samples of whoever was attacked.",
        ),
    ] = True,
    output: Annotated[
        Path | None, typer.Option(*OUT, help="File to write; default: in DIR, report.html or privacy.html.")
    ] = None,
) -> None:
    """Write the report of a run; with --privacy, who can learn what: for a review board, to read and to print.

    Example: `dictpfl report runs/mine --privacy`
    """
    use_working_directory()
    if output is not None:
        console.require_place(output)
    if privacy:
        from dictpfl.deploy.review.page import write_review

        path = write_review(folder, output, attack=attack, pictures=pictures)
    else:
        refuse_unread("attack", "pictures", because="of the privacy report, and --privacy was not typed")
        path = _run_report(folder, output)
    console.say(f"report  {path}")


def _run_report(folder: Path, output: Path | None) -> Path:
    from dictpfl.common.genesis import Genesis
    from dictpfl.deploy.reports.report import write_report
    from dictpfl.deploy.runs.run import REPORT, Run, first_institution

    run = Run.load(folder)
    path = output or folder / REPORT
    write_report(run, Genesis.load(first_institution(folder)), path)
    return path
