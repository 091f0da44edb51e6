"""Plots of a run: figures of matplotlib, which a notebook shows and a page carries as SVG text."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, MaxNLocator

from dictpfl.common.law.layout import Layout
from dictpfl.common.messages.protocol import RoundKind
from dictpfl.deploy.runs.census import Census
from dictpfl.deploy.runs.record import RoundRecord
from dictpfl.deploy.runs.scales import cut

COLOURS = ("#0b6e4f", "#c1440e", "#2b59c3", "#8a5a00", "#7b2d8b", "#475569", "#b3125d")
"""Distinct in print and for colour-blind readers; 4.5:1 or better on white."""
_METADATA = ("Date", "Creator", "Format", "Type")
"""Entries that matplotlib would write into a picture about itself; left out, so that equal runs give equal pages."""
_LEGIBLE = 24  # classes that a legend has room for
_PHASES = ("train", "evaluate", "store", "seal", "fold", "open")
_WORDS: dict[Any, Any] = {"text.parse_math": False, "text.usetex": False}
"""Texts are what they say: names of classes and institutions may hold `$`."""
_STYLE: dict[Any, Any] = {
    **_WORDS,
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


class Drawn(Figure):
    """Figure that a notebook shows as the same SVG as the report; `figure.axes[0]` changes it, `figure.savefig` writes it.

    No text in it is mathematics: `$` stands for itself.
    """

    def draw(self, renderer: RendererBase) -> None:
        """Draw; axes make texts of their own only now."""
        for text in self.findobj(Text):
            text.set_parse_math(False)
        with mpl.rc_context(_WORDS):
            super().draw(renderer)

    def _repr_svg_(self) -> str:
        return svg(self)


class _Plain(LogFormatter):
    """Numbers of a logarithmic axis in plain figures; those of matplotlib are mathematics."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element, without XML prologue."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Texts stay texts, whose fonts are those of the browser.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata=dict.fromkeys(_METADATA))
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)


def axes(title: str, x: str, y: str, *, width: float = 6.4, height: float = 3.4) -> tuple[Drawn, Axes]:
    """Return a figure with one labelled pair of axes."""
    with mpl.rc_context(_STYLE):
        figure = Drawn(figsize=(width, height), layout="constrained")
        ax = figure.add_subplot()
    ax.set_title(title, fontsize=11, loc="left", fontweight="bold")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if x == "round":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, ax


def legend(ax: Axes, named: Sequence[tuple[Any, str]], **how: Any) -> None:
    """Add a legend of what was drawn, with a name each; matplotlib's own leaves out names that begin with an underscore."""
    made = ax.legend([one for one, _ in named], [str(number) for number in range(len(named))], frameon=False, **how)
    for text, (_, name) in zip(made.get_texts(), named, strict=True):
        text.set_text(name)


def _updates(history: Sequence[RoundRecord]) -> list[RoundRecord]:
    return [record for record in history if record.kind == RoundKind.UPDATE]


def figure_against_rounds(
    runs: Mapping[str, Sequence[Sequence[RoundRecord]]],
    metric: str,
    *,
    best: int | None = None,
    validated: bool = False,
    levels: Mapping[str, float] = MappingProxyType({}),
) -> Drawn:
    """Test metric after each round, a line a run.

    Args:
        runs: rounds by name, of one run or of several seeds.
        metric: name of the metric.
        best: number of the update whose model is the best by validation, which is ringed; None: none is.
        validated: draw the validation figures of a single run, too, each at the update whose model it is of.
        levels: figures that need no round, by name.
    """
    figure, ax = axes(f"Test {metric} by round", "round", metric if validated else f"{metric} (test split)")
    named: list[tuple[Any, str]] = []
    for colour, (name, histories) in zip(COLOURS, runs.items(), strict=False):
        for number, history in enumerate(histories):
            updates = _updates(history)
            tested = [(r.update, r.test) for r in updates if r.test is not None]
            (line,) = ax.plot([x for x, _ in tested], [y for _, y in tested], color=colour, marker=".")
            named += [(line, "test" if validated else name)] if number == 0 else []
            ringed = [(r.update, r.test) for r in updates if r.update == best and r.test is not None]
            for x, y in ringed:
                (ring,) = ax.plot([x], [y], "o", markersize=11, fillstyle="none", color="#111827")
                named.append((ring, "best by validation"))
            if validated:
                points = _before(history, "validation")
                (line,) = ax.plot([x for x, _ in points], [y for _, y in points], color=COLOURS[1], linewidth=1)
                named.append((line, "validation"))
    named += _levels(ax, levels)
    if len(runs) > 1 or validated or levels:
        legend(ax, named)
    return figure


def _levels(ax: Axes, levels: Mapping[str, float]) -> list[tuple[Any, str]]:
    return [
        (ax.axhline(value, color=COLOURS[5], linestyle=style, linewidth=1), name)
        for style, (name, value) in zip(("--", ":", "-."), levels.items(), strict=False)
    ]


def losses(history: Sequence[RoundRecord]) -> Drawn:
    """Mean loss of training, validation and test samples, each at the update whose model it is of."""
    figure, ax = axes("Loss by round", "round", "mean loss")
    updates = _updates(history)
    lines = {
        "test": [(r.update, r.test_loss) for r in updates if r.test_loss is not None],
        "validation": _before(history, "validation_loss"),
        "training": [(r.update, r.train_loss) for r in updates if r.train_loss is not None],
    }
    named: list[tuple[Any, str]] = []
    for colour, (name, points) in zip(COLOURS, lines.items(), strict=False):
        if points:
            (line,) = ax.plot([x for x, _ in points], [y for _, y in points], color=colour, marker=".")
            named.append((line, name))
    legend(ax, named)
    return figure


def _before(history: Sequence[RoundRecord], what: str) -> list[tuple[int, float]]:
    """Validation figures at the update whose model they are of: a round measures the model that it begins with."""
    before = [0, *(r.update for r in history[:-1])]
    found = ((x, getattr(r, what)) for x, r in zip(before, history, strict=True))
    return [(x, value) for x, value in found if value is not None]


def figure_against_bytes(
    runs: Mapping[str, Sequence[Sequence[RoundRecord]]],
    metric: str,
    *,
    levels: Mapping[str, float] = MappingProxyType({}),
) -> Drawn:
    """Test metric against all bytes that one institution sent and received so far, logarithmic; see `figure_against_rounds`."""
    figure, ax = axes(f"Test {metric} by traffic", "MB of one institution, up and down (log)", f"{metric} (test split)")
    named: list[tuple[Any, str]] = []
    for colour, (name, histories) in zip(COLOURS, runs.items(), strict=False):
        for number, history in enumerate(histories):
            total = np.cumsum([r.bytes_up + r.bytes_down for r in history]) / 1e6
            points = [(m, r.test) for m, r in zip(total, history, strict=True) if r.test is not None]
            (line,) = ax.plot([x for x, _ in points], [y for _, y in points], color=colour, marker=".")
            named += [] if number else [(line, name)]
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(_Plain())
    ax.xaxis.set_minor_formatter(_Plain())
    named += _levels(ax, levels)
    if len(runs) > 1 or levels:
        legend(ax, named)
    return figure


def sent_share(history: Sequence[RoundRecord], shared: int) -> Drawn:
    """Share of the shared vector that is sent in each round."""
    figure, ax = axes("Share of shared coordinates that is sent", "round", "% of shared values")
    updates = _updates(history)
    ax.bar([r.update for r in updates], [100 * r.sent / max(1, shared) for r in updates], color=COLOURS[2])
    ax.set_ylim(0, 105)
    return figure


def sent_by_tensor(history: Sequence[RoundRecord], layout: Layout) -> Drawn:
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
    return figure


def classes_by_institution(census: Census) -> Drawn:
    """Samples of each class at each institution, stacked."""
    is_legible = len(census.classes) <= _LEGIBLE
    height, width = max(2.2, 0.26 * len(census.institutions) + 1.2), 6.4
    if is_legible:  # many classes, or long names, would leave no room for the bars
        height = max(height, 0.16 * len(census.classes) + 0.9)
        width += 0.06 * max(len(label) for label in census.classes)
    figure, ax = axes("Classes at each institution", "samples", "", width=width, height=height)
    names = list(census.institutions)
    left = np.zeros(len(names))
    shades = mpl.colormaps["cividis"](np.linspace(0, 1, max(2, len(census.classes))))
    named: list[tuple[Any, str]] = []
    for number, label in enumerate(census.classes):
        values = np.array([census.institutions[name][number] for name in names])
        bars = ax.barh(names, values, left=left, color=shades[number], edgecolor="white", linewidth=0.3)
        named.append((bars, label))
        left += values
    ax.invert_yaxis()
    if is_legible:
        legend(ax, named, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="class", title_fontsize=8)
    return figure


def time_split(history: Sequence[RoundRecord]) -> Drawn:
    """Seconds of each phase by round, stacked; one round far above all others, as the first often is, is cut and labelled."""
    figure, ax = axes("Where a round's time goes", "round", "seconds (mean of institutions)")
    updates = _updates(history)
    bottom = np.zeros(len(updates))
    named: list[tuple[Any, str]] = []
    for colour, phase in zip(COLOURS, _PHASES, strict=False):
        values = np.array([r.seconds.get(phase, 0.0) for r in updates])
        named.append((ax.bar([r.update for r in updates], values, bottom=bottom, color=colour), phase))
        bottom += values
    legend(ax, named, ncols=3, fontsize=8)
    ax.margins(y=0.2)
    if (limit := cut(bottom.tolist())) is not None:
        ax.set_ylim(0, limit * 1.2)
        for update, total in zip(updates, bottom, strict=True):
            if total > limit:
                ax.annotate(
                    f"{total:.3g} s, cut",
                    (update.update, limit * 1.2),
                    (4, -10),
                    textcoords="offset points",
                    fontsize=8,
                )
    return figure
