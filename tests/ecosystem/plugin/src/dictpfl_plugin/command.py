"""dictpfl sent runs/mine: what each round sent. dictpfl doctor: whether there is room for temporary files."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import typer

from dictpfl.deploy.doctor import Check

commands = typer.Typer()


@commands.command(rich_help_panel="Simulate")
def sent(folder: Path) -> None:
    """Print how many values an institution sent in each round of a run.

    Example: `dictpfl sent runs/mine`
    """
    for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        typer.echo(f"{record['kind']} {record.get('sent', 0)}")


def checks(_folder: Path | None) -> Iterator[Check]:
    """Say how much room temporary files have; `doctor --folder` would name a party's folder."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    yield Check("temporary files", free > 1e8, f"{free / 1e9:.1f} GB free in {tempfile.gettempdir()}")
