"""Plots of a report that are of no rounds: what stays of a model, and which of its parts a task moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dictpfl.deploy.runs.plots import COLOURS, Drawn, axes, legend

_NAME = 24  # characters of a block's name that a picture has room for


def shares_by_block(series: Mapping[str, Mapping[str, float]], title: str) -> Drawn:
    """Share of each block of a model, a colour a series; a line stands where all would be equal."""
    names = list(next(iter(series.values())))
    figure, ax = axes(title, "share of all blocks, %", "", height=max(2.6, 0.34 * len(names) + 1.5))
    thick = 0.8 / len(series)
    named: list[tuple[Any, str]] = []
    for number, (label, shares) in enumerate(series.items()):
        places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * thick
        bars = ax.barh(places, [100 * shares[name] for name in names], height=thick, color=COLOURS[number])
        named.append((bars, label))
    ax.axvline(100 / len(names), color="#475569", linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(names)), [name[-_NAME:] for name in names], fontsize=8)
    ax.invert_yaxis()
    legend(ax, named, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def kept_by_part(blocks: Mapping[str, Mapping[str, Any]]) -> Drawn:
    """Share of each part's entries that stays, and the spread of its rows: least, quartiles, fullest.

    Args:
        blocks: by part: `kept`, `entries`, and `rows`, five quantiles (`dictpfl.client.model.sparse.masks.Masks.facts`).
    """
    names = list(blocks)
    figure, ax = axes("What stays of each part", "% of entries", "", height=max(2.2, 0.22 * len(names) + 1.0))
    boxes = [
        {"med": rows[2], "q1": rows[1], "q3": rows[3], "whislo": rows[0], "whishi": rows[4], "fliers": []}
        for rows in ([100 * share for share in blocks[name]["rows"]] for name in names)
    ]
    places = range(len(names))
    ax.bxp(
        boxes,
        positions=places,
        orientation="horizontal",
        showfliers=False,
        widths=0.6,
        medianprops={"color": COLOURS[1]},
    )
    shares = [100 * blocks[name]["kept"] / blocks[name]["entries"] for name in names]
    (diamonds,) = ax.plot(shares, places, "D", color=COLOURS[2], markersize=5)
    ax.set_yticks(places, names, fontsize=7)
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
    legend(ax, [(diamonds, "of the whole part")], fontsize=8)
    return figure
