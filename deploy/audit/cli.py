"""Command `dictpfl audit crypto`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dictpfl.common.errors import ConfigError
from dictpfl.deploy import console
from dictpfl.deploy.arguments import OUT

audit = typer.Typer(name="audit")


@audit.command()
def crypto(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of `dictpfl simulate --record`.")],
    output: Annotated[
        Path | None, typer.Option(*OUT, help="File for the outcome as JSON. Default: audit.json in RUN.")
    ] = None,
    logs: Annotated[
        list[Path] | None, typer.Option(help="Further files or folders to search for secrets, such as logs.")
    ] = None,
) -> None:
    """Recompute a recorded run by a second implementation of the protocol; exit code 1 if anything differs.

    It needs every institution's folder, keys included, so it is for runs that one party holds whole: simulations.

    Example: `dictpfl audit crypto runs/mine`
    """
    from rich.text import Text

    from dictpfl.deploy.audit.audit import audited, report, write_report
    from dictpfl.deploy.audit.checks.check import UNTOLD

    path = output or run / "audit.json"
    if output is not None:
        console.require_place(output)
    for place in logs or ():
        if not place.exists():
            raise ConfigError(f"--logs {place}: expected a file or folder to search, found none")
    checks = []
    table = console.table("count", "verdict")
    for heading in ("what", "detail"):
        table.add_column(heading, overflow="fold")
    for check in audited(run, logs or ()):
        checks.append(check)
        table.add_row(str(check.count), check.verdict, Text(check.what), Text(check.detail))
    console.out.print(table)
    outcome = report(run, checks)
    write_report(path, outcome)
    failed, untold = outcome["failed"], sum(check.verdict == UNTOLD for check in checks)
    told = f", {untold} cannot tell in a run of this size" if untold else ""
    console.say(f"{len(checks) - failed - untold} of {len(checks)} lines hold, {failed} failed{told}  {path}")
    if failed:
        raise typer.Exit(1)
