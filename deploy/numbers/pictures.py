"""Pictures of digits, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dictpfl.deploy.numbers.fit import FIRST
from dictpfl.deploy.runs.plots import COLOURS, axes, legend, svg

_ALL, _LEADING = range(10), range(1, 10)


def of_data(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Bars of the digits that were counted beside the shares that are expected, with a caption each."""
    pictures = []
    for test in described["tests"]:
        if not test["shares"]:
            continue
        digits = _LEADING if test["what"] == "first" else _ALL
        figure, ax = axes(f"{test['what'].capitalize()} digits of {test['count']:,} numbers", "digit", "%")
        counted = ax.bar(list(digits), [100 * s for s in test["shares"]], color=COLOURS[2])
        (law,) = ax.plot(list(digits), [100 * s for s in test["expected"]], color=COLOURS[1], marker="o")
        ax.set_xticks(list(digits))
        _legend_beside(ax, [(counted, "counted"), (law, test["law"])])
        pictures.append((svg(figure), f"{test['what'].capitalize()} digits: {test['verdict']}."))
    return pictures


def of_shares(series: Mapping[str, Sequence[float]], title: str) -> str:
    """Bars of the share of each digit, a colour a series."""
    figure, ax = axes(title, "digit", "%")
    thick, named = 0.8 / len(series), []
    for number, (label, shares) in enumerate(series.items()):
        first = 10 - len(shares)
        places = np.arange(first, 10) + (number - (len(series) - 1) / 2) * thick
        drawn = ax.bar(places, [100 * s for s in shares], width=thick, color=COLOURS[number % len(COLOURS)])
        named.append((drawn, label))
    ax.set_xticks(list(_ALL))
    _legend_beside(ax, named)
    return svg(figure)


def of_profile(profile: Sequence[float], corpus: Sequence[float] | None) -> str:
    """Mean selectivity of neurons by digit, beside Benford's shares and those of a corpus."""
    figure, ax = axes("Selectivity of neurons by digit", "digit", "mean selectivity score")
    named: list[tuple[Any, str]] = [(ax.bar(list(_ALL), profile, color=COLOURS[0]), "neurons")]
    ax.set_xticks(list(_ALL))
    beside = ax.twinx()
    beside.grid(visible=False)
    beside.set_ylabel("%")
    (law,) = beside.plot(list(_LEADING), 100 * FIRST, color=COLOURS[1], marker="o")
    named.append((law, "Benford, first digits"))
    if corpus is not None:
        (shares,) = beside.plot(list(_LEADING), [100 * s for s in corpus], color=COLOURS[2], marker="s")
        named.append((shares, "corpus, first digits"))
    _legend_beside(beside, named, right=1.14)
    return svg(figure)


def of_lens(shares: Sequence[Sequence[float]]) -> str:
    """Probability of each digit behind each layer, a line a digit."""
    figure, ax = axes("Digits behind each layer", "layer", "%")
    values = 100 * np.array(shares)
    named = []
    for digit in _ALL:
        (line,) = ax.plot(range(1, len(values) + 1), values[:, digit], color=f"C{digit}")
        named.append((line, str(digit)))
    _legend_beside(ax, named)
    return svg(figure)


def _legend_beside(ax: Any, named: Sequence[tuple[Any, str]], *, right: float = 1.0) -> None:
    """Names of colours to the right of a plot: even bars leave no room in it."""
    legend(ax, named, fontsize=8, loc="upper left", bbox_to_anchor=(right, 1.0))


def of_table(table: Sequence[Sequence[float]], digit_names: Sequence[int]) -> str:
    """Change of each digit's share when neurons of one digit are silenced, percentage points."""
    values = 100 * np.array(table)
    most = max(1.0, float(np.abs(values).max()))
    figure, ax = axes(
        "Change of shares when neurons are silenced", "share of digit", "neurons selective for", height=4.2
    )
    image = ax.imshow(values, cmap="PuOr", vmin=-most, vmax=most)
    ax.grid(visible=False)
    ax.set_xticks(list(_ALL))
    ax.set_yticks(range(len(digit_names)), [str(d) for d in digit_names])
    figure.colorbar(image, ax=ax, label="percentage points", shrink=0.8)
    return svg(figure)
