"""Tables, page and plot of benchmarks/fast_path.py; docs/performance.md takes the tables from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.machine import Requirement, markdown_table, panels, preamble, requirement_lines
from benchmarks.phases import FOUNDING, OTHER, ROUND
from deploy.plots import COLOURS

COMMAND = "python benchmarks/fast_path.py"
WORK = ("train", "evaluate", "observe")
"""What a round is for: the rest is what it costs to do so together and encrypted."""


def _table(profiles: Mapping[str, Any], part: str, phases: Sequence[str]) -> str:
    heads = [f"{part}, ms", *(f"{name}: {way}" for name in profiles for way in ("before", "now"))]
    columns = [each[way][part]["cpu"] for each in profiles.values() for way in ("former", "present")]
    rows = [[phase, *(f"{1e3 * column.get(phase, 0.0):,.1f}" for column in columns)] for phase in phases]
    rows.append(["**all**", *(f"{1e3 * sum(column.values()):,.0f}" for column in columns)])
    if part == "round":
        shares = [100 * sum(column.get(phase, 0.0) for phase in WORK) / sum(column.values()) for column in columns]
        rows.append(["training and evaluation of it", *(f"{share:.1f} %" for share in shares)])
    return markdown_table(heads, rows)


def rounds(result: Mapping[str, Any]) -> str:
    """Processor milliseconds of a round by phase, before and now."""
    return _table(result["profiles"], "round", [*ROUND, OTHER])


def founding(result: Mapping[str, Any]) -> str:
    """The same of founding."""
    return _table(result["profiles"], "founding", [*FOUNDING, OTHER])


def compared(result: Mapping[str, Any]) -> str:
    """Each way beside the one that it replaced."""
    return markdown_table(
        ["", "before", "now", "", "times less"],
        [
            [pair["what"], f"{pair['former']:,.4g}", f"{pair['present']:,.4g}", pair["unit"], f"{pair['ratio']:.2f}"]
            for pair in result["pairs"]
        ],
    )


def imports(result: Mapping[str, Any]) -> str:
    """What a fresh process spends before it trains."""
    found = result["imports"]
    return (
        f"Measured in a fresh process: importing torch takes {found['torch']:.1f} s of processor time, and its first optimiser "
        f"{found['first optimiser']:.1f} s more."
    )


def where(result: Mapping[str, Any]) -> str:
    """What measured the figures, on what."""
    return preamble(result["machine"], COMMAND)


PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "where": where,
    "rounds": rounds,
    "founding": founding,
    "compared": compared,
    "imports": imports,
}
"""By marker in docs/performance.md."""


def filled(text: str, result: Mapping[str, Any]) -> str:
    """A page with what stands between `<!-- NAME -->` and `<!-- /NAME -->` replaced by the part of that name.

    Raises:
        ValueError: a marker is missing.
    """
    for name, part in PARTS.items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (start and end):
            raise ValueError(f"the page has no markers <!-- {name} --> and <!-- /{name} -->; put them back")
        text = f"{before}{start}{part(result)}\n{end}{after}"
    return text


def page(result: Mapping[str, Any], needed: Sequence[Requirement]) -> str:
    """benchmarks/results/fast_path.md."""
    shared = ", ".join(
        f"{name}: {each['present']['shared']:,} of {each['present']['model']:,} values shared, "
        f"{each['present']['rounds']} round{'s' * (each['present']['rounds'] > 1)}"
        for name, each in result["profiles"].items()
    )
    return f"""# Where the time goes

{where(result)}

Processor time of one process that plays coordinator, three institutions and observer, all of them together; docs/performance.md
explains the phases. {shared}.

## A round

{rounds(result)}

## Founding

{founding(result)}

## Former ways beside present ones

{compared(result)}

{imports(result)}

## Requirements

{requirement_lines(needed)}

![a round by phase](fast_path.svg)
"""


def plot(result: Mapping[str, Any]) -> Figure:
    """A round and founding as stacked bars, before and now."""
    figure, plots = panels("A round, seconds of processor time", "Founding, seconds of processor time")
    for ax, part, phases in zip(plots, ("round", "founding"), ([*ROUND, OTHER], [*FOUNDING, OTHER]), strict=True):
        names = [f"{name}, {word}" for name in result["profiles"] for word in ("before", "now")]
        columns = [each[way][part]["cpu"] for each in result["profiles"].values() for way in ("former", "present")]
        left = [0.0] * len(names)
        for number, phase in enumerate(phases):
            values = [column.get(phase, 0.0) for column in columns]
            colour, hatch = COLOURS[number % len(COLOURS)], "//" * (number // len(COLOURS))
            ax.barh(names, values, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3, label=phase)
            left = [a + b for a, b in zip(left, values, strict=True)]
        ax.invert_yaxis()
        ax.legend(frameon=False, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    figure.set_size_inches(12, 4.6)
    return figure
