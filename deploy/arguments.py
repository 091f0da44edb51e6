"""Help of arguments, which typer and click between them lose."""

from __future__ import annotations

from functools import wraps
from typing import Any

from typer.core import TyperArgument


def keep_help() -> None:
    """Let each argument keep its help.

    typer 0.20, the newest that Flower allows, sets it and then calls the constructor of click's argument, which from click 8.5 on has a help
    of its own and sets it to None.
    """
    made = TyperArgument.__init__
    if hasattr(made, "__wrapped__"):
        return

    @wraps(made)
    def constructor(self: TyperArgument, *values: Any, **named: Any) -> None:
        made(self, *values, **named)
        self.help = named.get("help")

    TyperArgument.__init__ = constructor  # type: ignore[method-assign]
