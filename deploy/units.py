"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_STEP = 999.5
"""Least figure that the next unit says: three digits round it to 1000, which `.3g` writes as 1e+03."""


def human_bytes(value: float) -> str:
    """Bytes with a decimal prefix: 33204 is '33.2 kB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < _STEP:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def human_count(value: float) -> str:
    """Return a count with thousands separated."""
    return f"{value:,.0f}"


def counted(number: int, thing: str) -> str:
    """Return a number of things in words: '1 round', '2,000 rounds'."""
    return f"1 {thing}" if number == 1 else f"{human_count(number)} {thing}s"


def human_factor(value: float) -> str:
    """Return a ratio: '12.3x'."""
    return f"{value:,.0f}x" if value >= 100 else f"{value:.3g}x"  # noqa: PLR2004 -- three digits read well


def human_seconds(value: float) -> str:
    """Seconds, in the unit that suits."""
    if value < _STEP / 1000:
        return f"{value * 1000:.3g} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"  # noqa: PLR2004 -- two minutes


def percent(value: float | None) -> str:
    """Return a share as a percentage; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def figure(value: float | None, metric: str) -> str:
    """Return a metric's value: a percentage of what is a share of right answers, the plain number of anything else.

    Args:
        value: None: a dash.
        metric: its name; "": of a run that did not say, whose figure was an accuracy.
    """
    if not metric or "accuracy" in metric:
        return percent(value)
    return "-" if value is None else f"{value:.4g}"


def listed(figures: Mapping[str, Any]) -> str:
    """Return the single numbers among a metric's figures, with their names, on one line; counts, such as `clipped` of `r2`, as they are."""
    single = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in single.items()
    )
