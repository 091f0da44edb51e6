"""Arguments and options of all commands: one name of the output, and mends of typer and click."""

from __future__ import annotations

import math
from functools import wraps
from typing import Any

import typer
from typer.core import TyperArgument, TyperOption

OUT = ("--out", "--output", "-o")
"""Names of the option that says where a command writes, the same of every command."""


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


def refuse_nan() -> None:
    """Let no option be NaN or infinite: click's ranges let the one through, and where an end is open the other."""
    made = TyperOption.type_cast_value
    if hasattr(made, "__wrapped__"):
        return

    @wraps(made)
    def cast(self: TyperOption, ctx: Any, value: Any) -> Any:
        found = made(self, ctx, value)
        if isinstance(found, float) and not math.isfinite(found):
            raise typer.BadParameter(f"{found} is no finite number", ctx=ctx, param=self)
        return found

    TyperOption.type_cast_value = cast  # type: ignore[method-assign, assignment]
