"""Small charts as SVG text, without a library: a coordinator has no matplotlib, and each is drawn anew after every round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import escape

from dictpfl.deploy.runs.scales import cut

COLOURS = ("#0b6e4f", "#c1440e", "#2b59c3", "#8a5a00", "#7b2d8b", "#475569")
"""Colours of reports: distinct in print and for colour-blind readers."""
_WIDTH, _HEIGHT = 640, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 46, 34
_TICKS, _LABELS = 4, 8
_ONE_ROUND = 1e-6

Points = Sequence[tuple[float, float]]
Shown = Callable[[float], str]


def lines(
    title: str, series: Mapping[str, Points], *, shown: Shown, marked: tuple[float, float, str] | None = None
) -> str:
    """Draw a line for each name against the number of the round.

    Args:
        title: heading.
        series: points (round, value) by name; values that are no finite numbers, and names without points, are left out.
        shown: makes a value's text.
        marked: a point that is ringed, and what it is.
    """
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in series.items()}
    known = {name: points for name, points in finite.items() if points}
    every = [point for points in known.values() for point in points]
    if not every:
        return _empty(title)
    xs, ys = [x for x, _ in every], [y for _, y in every]
    at = _Place(min(xs), max(xs), min(ys), max(ys))
    parts = [_heading(title), *_grid(at, shown), *_legend([*known])]
    for colour, points in zip(COLOURS, known.values(), strict=False):
        path = " ".join(f"{at.x(x):.1f},{at.y(y):.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
        )
        x, y = points[-1]
        parts.append(f'<circle cx="{at.x(x):.1f}" cy="{at.y(y):.1f}" r="3" fill="{colour}"/>')
    if marked is not None:
        x, y, what = marked
        ring = f'cx="{at.x(x):.1f}" cy="{at.y(y):.1f}" r="7" fill="none" stroke="#111827" stroke-width="2"'
        parts.append(f"<circle {ring}><title>{escape(what)}</title></circle>")
    return _svg(parts)


def stacked(title: str, series: Mapping[str, Sequence[float]], rounds: Sequence[float], *, shown: Shown) -> str:
    """Draw a bar for each round, its parts one upon the other; a bar that would press the others to the ground is cut."""
    if not rounds:
        return _empty(title)
    totals = [sum(values[index] for values in series.values()) for index in range(len(rounds))]
    limit = cut(totals)
    top = limit or max(totals) or 1.0
    at = _Place(min(rounds) - 0.5, max(rounds) + 0.5, 0.0, top)
    width = max(0.5, 0.8 * (_WIDTH - _LEFT - _RIGHT) / (max(rounds) - min(rounds) + 1))
    parts = [_heading(title), *_grid(at, shown), *_legend([*series])]
    for index, number in enumerate(rounds):
        base = 0.0
        for colour, values in zip(COLOURS, series.values(), strict=False):
            end = min(base + values[index], at.high)
            if end > base:
                size = f'width="{width:.2f}" height="{at.y(base) - at.y(end):.2f}"'
                parts.append(f'<rect x="{at.x(number) - width / 2:.2f}" y="{at.y(end):.2f}" {size} fill="{colour}"/>')
            base = end
        if limit is not None and totals[index] > limit:
            parts.append(_text(at.x(number) + width / 2 + 3, _TOP + 11, f"cut: {shown(totals[index])}"))
    return _svg(parts)


class _Place:
    """Places of values on the canvas."""

    def __init__(self, first: float, last: float, low: float, high: float) -> None:
        self.first, self.last = first, max(last, first + 1e-9)
        if high - low < 1e-12:  # noqa: PLR2004 -- one value: give it room
            low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
        self.step = _nice((high - low) / _TICKS)
        self.low, self.high = (
            math.floor(low / self.step + 1e-9) * self.step,
            math.ceil(high / self.step - 1e-9) * self.step,
        )

    def x(self, value: float) -> float:
        part = (value - self.first) / (self.last - self.first) if self.last - self.first > _ONE_ROUND else 0.5
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * part

    def y(self, value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (self.high - value) / (self.high - self.low)


def _nice(step: float) -> float:
    """Round a step up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def _grid(at: _Place, shown: Shown) -> list[str]:
    parts = []
    for number in range(round((at.high - at.low) / at.step) + 1):
        value = at.low + number * at.step
        y = at.y(value)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(_text(_LEFT - 6, y + 4, shown(value), anchor="end"))
    first, last = math.ceil(at.first), math.floor(at.last)
    every = max(1, math.ceil((last - first + 1) / _LABELS))
    parts += [
        _text(at.x(n), _HEIGHT - 19, str(n), anchor="middle")
        for n in range(first, last + 1)
        if (n - first) % every == 0
    ]
    return [*parts, _text(_WIDTH - _RIGHT, _HEIGHT - 5, "round", anchor="end")]


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], float(_LEFT)
    for colour, name in zip(COLOURS, names, strict=False):
        parts.append(f'<rect x="{x:.0f}" y="24" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, 33, name))
        x += 30 + 6.6 * len(name)
    return parts


def _heading(title: str) -> str:
    return f'<text x="{_LEFT}" y="14" font-size="14" font-weight="bold" fill="#111827">{escape(title)}</text>'


def _text(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}" fill="#374151">{escape(words)}</text>'


def _empty(title: str) -> str:
    return _svg([_heading(title), _text(_LEFT, _HEIGHT / 2, "nothing yet: the first round has not closed")])


def _svg(parts: Sequence[str]) -> str:
    return f'<svg aria-hidden="true" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">{"".join(parts)}</svg>'
