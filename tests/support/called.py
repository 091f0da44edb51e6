"""Commands that units and containers call: they exist, with their options, and real processes are tested with them."""

from __future__ import annotations

from collections.abc import Sequence

import click
import typer.main

from dictpfl.deploy.cli import app
from tests.support import ROOT

PROCESS_TESTS = ROOT / "tests" / "processes"


def require_command(arguments: Sequence[str]) -> str:
    """Resolve as the command line would, without running it; returns the command's name, such as `coordinator up`."""
    group, names, rest = typer.main.get_command(app), [], list(arguments)
    while hasattr(group, "commands"):
        name = rest.pop(0)
        assert name in group.commands, f"dictpfl {' '.join([*names, name])}: no such command"
        names.append(name)
        group = group.commands[name]
    # Raises for an unknown option, a missing one, or a value of the wrong type.
    group.make_context(" ".join(names), rest, parent=click.Context(click.Command("dictpfl")))
    return " ".join(names)


def require_process_test(name: str) -> None:
    """A test of real processes runs this very command."""
    called = ", ".join(f'"{word}"' for word in name.split())
    texts = ["".join(path.read_text().split()) for path in PROCESS_TESTS.glob("*.py")]
    assert any("".join(called.split()) in text for text in texts), f"no test in {PROCESS_TESTS} runs `dictpfl {name}`"
