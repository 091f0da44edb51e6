"""Reads what benchmarks left in benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
_SHORT = "2026-11-26 12:00"


def load(name: str) -> dict[str, Any]:
    """Content of a result file, such as `accuracy`."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def before_short_ciphertexts(machine: dict[str, Any]) -> str:
    """What to know of bytes that were measured before ciphertexts were short."""
    if machine["date"] >= _SHORT:
        return ""
    return "Measured before ciphertexts were short ([0030](decisions/0030-short-ciphertexts.md)): today fewer bytes are sent, and of small vectors far fewer. "


def where(machine: dict[str, Any]) -> str:
    """Machine and date in a few words."""
    return where_all([machine])


def where_all(machines: Iterable[dict[str, Any]]) -> str:
    """The same of several: every machine that measured, and the first and last date."""
    every = list(machines)
    dates = sorted({one["date"].split()[0] for one in every})
    places = "; ".join(sorted({f"{one['processor']}, {one['cores']} cores" for one in every}))
    return f"{places}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"


def in_bytes(count: float) -> str:
    """Bytes in the unit that keeps them short."""
    unit, factor = next((u, f) for u, f in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if count >= f)
    return f"{count / factor:,.3g} {unit}"


def goals(result: dict[str, Any], page: str) -> str:
    """How many of the goals that the project set this benchmark are reached, and where they stand."""
    missed = sum(not item["met"] for item in result["requirements"])
    of = len(result["requirements"])
    linked = f"[{page}.md](../benchmarks/results/{page}.md)"
    if of == 1:
        return f"The one goal that this project set itself here is {'missed' if missed else 'reached'}: {linked} states it."
    told = (
        f"{of - missed or 'none'} {'is' if of - missed == 1 else 'are'} reached, {missed} not"
        if missed
        else "all are reached"
    )
    return f"Of {of} goals that this project set itself here {told}: {linked} lists them."
