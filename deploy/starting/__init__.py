"""Short configurations to start from, by the kind of data: what `dictpfl init --tabular` and its like write."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal, get_args

Kind = Literal["minimal", "tabular", "images", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def starting(kind: Kind) -> str:
    """Return the text of a configuration."""
    return (files("dictpfl.deploy") / "starting" / f"{kind}.toml").read_text(encoding="utf-8")
