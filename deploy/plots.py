"""Plots as SVG text, for pages that carry everything with them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.layout import Layout
from common.protocol import RoundKind
from deploy.census import Census
from deploy.observer import RoundRecord

COLOURS = ("#0b6e4f", "#c1440e", "#2b59c3", "#8a5a00", "#7b2d8b", "#475569", "#b3125d")
"""Distinct in print and for colour-blind readers; 4.5:1 or better on white."""
_METADATA = ("Date", "Creator", "Format", "Type")
"""What matplotlib would write into a picture about itself; left out, so that equal runs give equal pages."""
_LEGIBLE = 24  # classes that a legend has room for
_PHASES = ("train", "evaluate", "store", "seal", "fold", "open")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dictpfl",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
}


def svg(figure: Figure) -> str:
    """The figure as an SVG element, without XML prologue."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata=dict.fromkeys(_METADATA))
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)


def axes(title: str, x: str, y: str, *, width: float = 6.4, height: float = 3.4) -> tuple[Figure, Axes]:
    """A figure with one labelled pair of axes."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        ax = figure.add_subplot()
    ax.set_title(title, fontsize=11, loc="left", fontweight="bold")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    return figure, ax


def _updates(history: Sequence[RoundRecord]) -> list[RoundRecord]:
    return [record for record in history if record.kind == RoundKind.UPDATE]


def accuracy_against_rounds(runs: Mapping[str, Sequence[RoundRecord]], metric: str) -> str:
    """Test metric after each round, a line a run."""
    figure, ax = axes(f"Test {metric} by round", "round", f"{metric} (test split)")
    for colour, (name, history) in zip(COLOURS, runs.items(), strict=False):
        updates = _updates(history)
        ax.plot([r.update for r in updates], [r.accuracy or 0.0 for r in updates], color=colour, label=name, marker=".")
    if len(runs) > 1:
        ax.legend(frameon=False)
    return svg(figure)


def accuracy_against_bytes(runs: Mapping[str, Sequence[RoundRecord]], metric: str) -> str:
    """Test metric against all bytes that one institution sent and received so far, logarithmic."""
    figure, ax = axes(f"Test {metric} by traffic", "MB of one institution, up and down (log)", f"{metric} (test split)")
    for colour, (name, history) in zip(COLOURS, runs.items(), strict=False):
        total = np.cumsum([r.bytes_up + r.bytes_down for r in history]) / 1e6
        points = [(m, r.accuracy) for m, r in zip(total, history, strict=True) if r.accuracy is not None]
        ax.plot(*zip(*points, strict=True), color=colour, label=name, marker=".")
    ax.set_xscale("log")
    if len(runs) > 1:
        ax.legend(frameon=False)
    return svg(figure)


def sent_share(history: Sequence[RoundRecord], shared: int) -> str:
    """Share of the shared vector that is sent in each round."""
    figure, ax = axes("Share of shared coordinates that is sent", "round", "% of shared values")
    updates = _updates(history)
    ax.bar([r.update for r in updates], [100 * r.sent / max(1, shared) for r in updates], color=COLOURS[2])
    ax.set_ylim(0, 105)
    return svg(figure)


def sent_by_tensor(history: Sequence[RoundRecord], layout: Layout) -> str:
    """Share of each tensor that is sent, tensor by round."""
    updates, names = _updates(history), [e.name for e in layout.entries]
    share = np.array([[r.sent_by_tensor[e.name] / e.size for r in updates] for e in layout.entries])
    height = max(2.2, 0.19 * len(names) + 1.0)
    figure, ax = axes("Share of each tensor that is sent", "round", "", height=height)
    first, last = updates[0].update, updates[-1].update
    image = ax.imshow(
        100 * share, aspect="auto", cmap="cividis", vmin=0, vmax=100, interpolation="nearest",
        extent=(first - 0.5, last + 0.5, len(names) - 0.5, -0.5),
    )  # fmt: skip
    ax.grid(visible=False)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(image, ax=ax, label="% sent", shrink=0.8)
    return svg(figure)


def classes_by_site(census: Census) -> str:
    """Samples of each class at each institution, stacked."""
    is_legible = len(census.classes) <= _LEGIBLE
    height, width = max(2.2, 0.26 * len(census.sites) + 1.2), 6.4
    if is_legible:  # many classes, or long names, would leave no room for the bars
        height = max(height, 0.16 * len(census.classes) + 0.9)
        width += 0.06 * max(len(label) for label in census.classes)
    figure, ax = axes("Classes at each institution", "samples", "", width=width, height=height)
    names = list(census.sites)
    left = np.zeros(len(names))
    shades = mpl.colormaps["cividis"](np.linspace(0, 1, max(2, len(census.classes))))
    for number, label in enumerate(census.classes):
        values = np.array([census.sites[name][number] for name in names])
        ax.barh(names, values, left=left, color=shades[number], label=label, edgecolor="white", linewidth=0.3)
        left += values
    ax.invert_yaxis()
    if is_legible:
        ax.legend(
            frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="class", title_fontsize=8
        )
    return svg(figure)


def time_split(history: Sequence[RoundRecord]) -> str:
    """Seconds of each phase by round, stacked."""
    figure, ax = axes("Where a round's time goes", "round", "seconds (mean of institutions)")
    updates = _updates(history)
    bottom = np.zeros(len(updates))
    for colour, phase in zip(COLOURS, _PHASES, strict=False):
        values = np.array([r.seconds.get(phase, 0.0) for r in updates])
        ax.bar([r.update for r in updates], values, bottom=bottom, color=colour, label=phase)
        bottom += values
    ax.legend(frameon=False, ncols=3, fontsize=8)
    ax.margins(y=0.2)
    return svg(figure)
