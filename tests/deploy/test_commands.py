"""The door of commands: apps of packages join, groups of one name become one, and what cannot be loaded is said."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import typer
from typer.testing import CliRunner

from dictpfl.common.errors import ConfigError
from dictpfl.deploy import commands
from dictpfl.deploy.commands import GROUP, join, join_installed


def of(*names: str, group: str | None = None, help_: str | None = None) -> typer.Typer:
    """An app whose commands print their own names."""
    app = typer.Typer(name=group, help=help_, rich_help_panel="Simulate") if group else typer.Typer()
    for name in names:
        app.command(name)(lambda name=name: typer.echo(name))
    return app


def printed(app: typer.Typer, *words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_an_app_without_a_name_adds_its_commands() -> None:
    app = of("one", "two")
    join(app, of("three"))
    assert printed(app, "three") == "three\n"


def test_groups_of_one_name_become_one_with_the_help_of_who_has_one() -> None:
    app = of("one")
    join(app, of("first", group="audit"))
    join(app, of("second", group="audit", help_="Check what parties recorded."))
    assert printed(app, "audit", "first") == "first\n"
    assert printed(app, "audit", "second") == "second\n"
    assert "Check what parties recorded." in printed(app, "--help")
    assert "Simulate" in printed(app, "--help")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (of("one"), "a command 'one' is there already"),
        (of("x", group="one"), "a command 'one' is there already"),
        (of("first", group="audit"), "a command 'first' is there already"),
        (print, "expected a typer.Typer, found builtin_function_or_method"),
    ],
)
def test_what_cannot_join_changes_nothing(other: object, told: str) -> None:
    app = of("one")
    join(app, of("first", group="audit", help_="Check."))
    before = printed(app, "--help"), printed(app, "audit", "--help")
    with pytest.raises(ConfigError, match=told):
        join(app, other)
    assert (printed(app, "--help"), printed(app, "audit", "--help")) == before


def test_a_broken_package_is_named_and_the_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("ward", "no.such.module:commands", GROUP)
    ours = commands.installed(GROUP)
    monkeypatch.setattr(commands, "installed", lambda _group: [broken, *ours])
    app = typer.Typer()
    (problem,) = join_installed(app)
    assert "cannot load 'ward'" in problem
    assert "no.such.module" in problem or "No module named 'no'" in problem
    assert "Show what a run reached" in printed(app, "inspect", "--help")


def test_an_installation_without_entry_points_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "installed", lambda _group: [])
    assert "pip install" in join_installed(typer.Typer())[0]
