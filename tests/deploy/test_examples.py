"""The help of each command ends with an example, and each example is one that the command takes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest
import typer

from dictpfl.deploy.cli import app
from dictpfl.deploy.examples import EXAMPLES


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path), command


EVERY = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", EVERY)
def test_its_help_has_an_example(path: str) -> None:
    command = EVERY[path]
    said = f"{command.help or ''}\n{command.epilog or ''}"
    assert said.count("Example: `dictpfl " + path) == 1


@pytest.mark.parametrize("path", EXAMPLES)
def test_its_example_is_one_that_it_takes(path: str) -> None:
    EVERY[path].make_context(path, shlex.split(EXAMPLES[path]))


def test_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        typer.main.get_command(app)(["export", "--help"])
    assert "Example: dictpfl export runs/mine -o model.safetensors" in " ".join(
        capsys.readouterr().out.replace("`", "").split()
    )
