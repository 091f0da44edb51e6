"""What stands in brackets is shown: names of classes, columns and files are no markup of the terminal's."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dictpfl.common.registry import Listed
from dictpfl.deploy import console, plugins
from dictpfl.deploy.cli import app
from dictpfl.deploy.exports import evaluation
from dictpfl.deploy.plugins import Door
from dictpfl.deploy.reports.progress import LiveProgress


def test_names_in_brackets_stand_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    table = console.table("dose [mg]", title="digits of ward [b]")
    table.add_row("blocks.[ab].weight [/]")
    Console(width=80).print(table)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("dose [mg]", "ward [b]", "blocks.[ab].weight [/]"))


def test_classes_in_brackets_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names were lost, and one such as `[/]` ended the command in a traceback."""
    names = ("tumour [benign]", "tumour [malignant]", "[/]")
    reached = SimpleNamespace(
        metric_name="accuracy", metric=0.5, loss=1.0, samples=3, reducer="", without="", figures={}, names=names,
        recall=dict.fromkeys(range(3), (1, 0.5)),
    )  # fmt: skip
    monkeypatch.setattr(evaluation, "evaluate_on", lambda *_: reached)
    found = CliRunner().invoke(app, ["evaluate", "run"])
    assert found.exit_code == 0
    assert all(name in found.output for name in names)


def test_a_remedy_in_brackets_stands_in_the_list_of_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door("task", "training.task", "g", (), "torch is not installed: pip install 'dictpfl[institution]'")
    broken = Listed("mine", "mine:Task", "mine 1", "cannot load: pip install 'mine[all]' [/]")
    monkeypatch.setattr(plugins, "doors", lambda: iter((door, replace(door, problem="", parts=(broken,)))))
    shown = " ".join(CliRunner().invoke(app, ["doctor", "--plugins"]).output.split())
    assert "dictpfl[institution]" in shown
    assert "mine[all]" in shown


def test_a_federations_name_is_no_markup() -> None:
    terminal = Console(force_terminal=True, width=100, record=True)
    with LiveProgress(terminal, "ward [b] [/]", 3):
        pass
    assert "ward [b] [/]" in terminal.export_text()
