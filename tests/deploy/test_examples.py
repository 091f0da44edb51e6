"""Help: commands stand in the order of work; each ends with an example, which is one that the command takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import typer
from rich.markup import render
from typer.testing import CliRunner

from dictpfl.common.config import FederationConfig
from dictpfl.deploy.attacks.gradient_model import require_attackable
from dictpfl.deploy.ceremony.asking import shape_of
from dictpfl.deploy.cli import app
from dictpfl.deploy.commands import HEADINGS
from dictpfl.deploy.overrides import overrides
from dictpfl.deploy.simulation import cli, simulate
from tests.support import ROOT
from tests.support.federations import as_toml


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path), command


EVERY = dict(commands(typer.main.get_command(app)))
EXAMPLES = {
    path: " ".join(example[1].split())
    for path, command in EVERY.items()
    if (example := re.search(rf"Example: `dictpfl {path}([^`]*)`", " ".join((command.help or "").split())))
}
"""Words behind `dictpfl COMMAND`, as its help ends with them."""


@pytest.mark.parametrize("path", EVERY)
def test_its_help_has_an_example(path: str) -> None:
    assert path in EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES)
def test_its_example_is_one_that_it_takes(path: str) -> None:
    EVERY[path].make_context(path, shlex.split(EXAMPLES[path]))


def test_the_first_example_begins_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It said `--resume`: typed where nothing was stopped, that is refused."""
    begun: list[Path] = []

    def simulated(_config: object, folder: Path, **_options: object) -> SimpleNamespace:
        begun.append(folder)
        return SimpleNamespace(summary={}, folder=folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulate, "simulate", simulated)
    monkeypatch.setattr(cli, "print_summary", lambda _: None)
    monkeypatch.setattr(cli, "_logging", lambda **_: None)
    Path("federation.toml").write_text(as_toml(), encoding="utf-8")
    done = CliRunner().invoke(app, ["simulate", *shlex.split(EXAMPLES["simulate"])])
    assert done.exit_code == 0, done.exception
    assert begun == [Path("runs/mine")]


def test_the_example_of_an_attack_is_of_a_configuration_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It named what `dictpfl init` writes as it stands, whose optimiser is refused."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init"]).exit_code == 0
    given = EVERY["attack"].make_context("attack", shlex.split(EXAMPLES["attack"])).params
    require_attackable(FederationConfig.load(given["config"], overrides(given["set_"])).training)


def test_the_examples_of_ceremonies_are_read_as_they_stand() -> None:
    """They had commas in a shape, an identity without a name, and one state where two are asked for: each was refused."""

    def given(path: str) -> dict[str, Any]:
        return EVERY[path].make_context(path, shlex.split(EXAMPLES[path])).params

    genesis = given("authority genesis")
    assert shape_of(genesis["sample_shape"]) == (1, 8, 8)
    assert [name for name, _, file in (pair.partition("=") for pair in genesis["institutions"]) if file] == [
        "north", "south", "west",
    ]  # fmt: skip
    assert shape_of(given("study propose")["sample_shape"]) == (64,)
    assert len(given("authority rotate")["states"]) == 2


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda file: file.stem)
def test_commands_of_an_experiment_are_known(file: Path) -> None:
    """Those that its head names, with their options; values may stand for others (`$alpha`, FOLDER)."""
    head = "".join(line.lstrip("# ") for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
    for words in map(shlex.split, re.findall(r"(?m)^(?:.*; do )?dictpfl ([^;\n`]+)", head)):
        path = next(path for path in (" ".join(words[:2]), words[0]) if path in EVERY)
        EVERY[path].make_parser(click.Context(EVERY[path])).parse_args(words[len(path.split()) :])


def test_the_output_of_every_command_has_the_same_names() -> None:
    """It was --out of some, --output or -o of others, and each refused what the others take."""
    options = [one for command in EVERY.values() for one in command.params if isinstance(one, click.Option)]
    named = [one.opts for one in options if {"--out", "--output", "-o"} & {*one.opts}]
    assert len(named) > 20
    assert {tuple(names) for names in named} == {("--out", "--output", "-o")}


@pytest.mark.parametrize("path", EVERY)
def test_no_option_is_nan(path: str) -> None:
    """A range lets it through, for nothing is above or below it."""
    context = click.Context(EVERY[path])
    for option in EVERY[path].params:
        if isinstance(option.type, (click.types.FloatParamType, click.FloatRange)):
            for value in ("nan", "inf", "-inf"):
                with pytest.raises(click.BadParameter):
                    option.type_cast_value(context, value)


def test_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        typer.main.get_command(app)(["export", "--help"])
    assert "Example: dictpfl export runs/mine -o model.safetensors" in " ".join(
        capsys.readouterr().out.replace("`", "").split()
    )


@pytest.mark.parametrize("path", EVERY)
def test_its_help_says_all_that_is_written(path: str) -> None:
    command = EVERY[path]
    for text in (command.help, command.epilog, *(getattr(one, "help", None) for one in command.params)):
        written = (text or "").replace("\\[", "[")
        assert render(text or "").plain == written, "brackets are markup: write \\\\[data]"


def test_arguments_keep_their_help() -> None:
    silent = ("init", "describe", "audit fingerprint")  # which have none
    arguments = {path: one for path, c in EVERY.items() for one in c.params if isinstance(one, click.Argument)}
    assert not [path for path, one in arguments.items() if not getattr(one, "help", None) and path not in silent]


def test_commands_are_listed_under_the_headings_of_work_in_their_order() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    context = click.Context(group)
    listed = [getattr(group.get_command(context, name), "rich_help_panel", "") for name in group.list_commands(context)]
    assert tuple(dict.fromkeys(listed)) == HEADINGS
    assert listed == sorted(listed, key=HEADINGS.index)
