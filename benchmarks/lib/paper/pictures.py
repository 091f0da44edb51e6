"""Pictures of what the paper's figures 2, 4, 5, 6 and 8 are about, drawn from our own runs."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from itertools import accumulate

import matplotlib as mpl
from matplotlib.figure import Figure

from dictpfl.deploy.reports.plots import COLOURS
from lib.machine import panels
from lib.paper.measured import Figures, Measured
from lib.paper.methods import BOTH, FEDHE, FROZEN_A, FULL, HEAD, METHODS, ML10, OURS, PAPER, TOP2
from lib.paper.network import LAN, NETWORKS, WAN, ends, phases
from lib.paper.workloads import LARGE, WORKLOADS

_PHASED = (FULL, FEDHE, ML10, OURS)
_COLOUR = dict(
    zip((OURS, FULL, FEDHE, BOTH, HEAD, TOP2, PAPER, ML10, FROZEN_A), (*COLOURS, "#94a3b8", "#d97706"), strict=True)
)
_PARTS: Mapping[str, tuple[str, ...]] = {
    "training, measuring": ("train", "evaluate", "store"),
    "encryption": ("seal", "fold", "open"),
    "sending": ("send",),
    "latency, polling": ("latency, polling",),
}


def svg(figure: Figure) -> str:
    """The figure as a file's text: the same for the same figures."""
    page = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dictpfl"}):
        figure.savefig(page, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def _title(method: str) -> str:
    return METHODS[method].title.strip("*")


def _runs(found: Measured, workload: str, methods: tuple[str, ...], partition: str = "iid") -> dict[str, Figures]:
    rows = {method: found.row(workload, partition, method) for method in methods}
    return {method: row.first for method, row in rows.items() if row is not None}


def time_by_phase(found: Measured) -> Figure | None:
    """A round's time by part, four methods, over a LAN and a WAN."""
    runs = found.timed(_PHASED)
    if not {FULL, OURS} <= runs.keys():
        return None
    figure, plots = panels(*(f"A round on {LARGE}, {network.name}" for network in (LAN, WAN)))
    for ax, network in zip(plots, (LAN, WAN), strict=True):
        left = [0.0] * len(runs)
        for colour, (part, names) in zip(COLOURS, _PARTS.items(), strict=False):
            seconds = [sum(phases(figures, network)[name] for name in names) for figures in runs.values()]
            ax.barh([_title(method) for method in runs], seconds, left=left, color=colour, label=part)
            left = [a + b for a, b in zip(left, seconds, strict=True)]
        ax.invert_yaxis()
        ax.set_xlabel("seconds")
    plots[0].legend(frameon=False, fontsize=8)
    return figure


def shrinking(found: Measured) -> Figure | None:
    """Sizes of updates by round, with this project's settings and the paper's."""
    rows = found.arm("traced")
    if not rows:
        return None
    figure, plots = panels(*(f"Updates on digits, {label}" for label in rows))
    for ax, row in zip(plots, rows.values(), strict=True):
        trace = row.first["trace"]
        for colour, quantile, sizes in zip(COLOURS, trace["quantiles"], zip(*trace["size"], strict=True), strict=False):
            ax.plot(range(1, len(sizes) + 1), sizes, color=colour, label=f"quantile {quantile:g}")
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("round")
        ax.set_ylabel("magnitude of an update that was sent")
    plots[0].legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def coordinates(found: Measured) -> Figure | None:
    """Three coordinates' updates by round: hollow where they were pruned, and nothing was sent."""
    row = found.arm("traced").get("dictpfl")
    if row is None:
        return None
    histories = row.first["trace"]["coordinates"]
    figure, plots = panels(
        *(f"A coordinate that {'is ' if word.startswith('pruned') else ''}{word}" for word in histories)
    )
    for ax, one in zip(plots, histories.values(), strict=True):
        rounds = range(1, len(one["sent"]) + 1)
        sent = [
            (at, abs(change))
            for at, change, is_sent in zip(rounds, one["changes"], one["sent"], strict=True)
            if is_sent
        ]
        away = [at for at, is_sent in zip(rounds, one["sent"], strict=True) if not is_sent]
        ax.plot(*zip(*sent, strict=True), color=COLOURS[0], marker="o", label="sent")
        ax.plot(away, [0.0] * len(away), color=COLOURS[1], marker="o", mfc="white", linestyle="", label="pruned")
        ax.set_xlabel("round")
        ax.set_ylabel("magnitude of its update")
        ax.legend(frameon=False, fontsize=8)
    return figure


def accuracy_by_bytes(found: Measured) -> Figure | None:
    """Test figure against the bytes of one institution, a panel for each workload that has both plaintext and dictpfl."""
    shown = {name: _runs(found, name, tuple(_COLOUR), workload.partitions[0]) for name, workload in WORKLOADS.items()}
    shown = {name: runs for name, runs in shown.items() if {FULL, OURS} <= runs.keys()}
    if not shown:
        return None
    figure, plots = panels(*shown, across=3)
    for ax, runs in zip(plots, shown.values(), strict=True):
        for method, figures in runs.items():
            sent = accumulate(u + d for u, d in zip(figures["up_by_round"], figures["down_by_round"], strict=True))
            ax.plot(
                [one / 1e6 for one in sent],
                figures["accuracy_by_round"],
                color=_COLOUR[method],
                marker=".",
                linewidth=2.2 if method == OURS else 1.2,
                label=_title(method),
            )
        ax.set_xscale("log")
        ax.set_xlabel("MB of one institution, up and down")
        ax.set_ylabel("test, %")
    # Workloads have other methods: one legend for all panels.
    named = {label: line for ax in plots for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def accuracy_by_time(found: Measured) -> Figure | None:
    """Test figure against seconds on three networks."""
    runs = found.timed((FULL, FEDHE, ML10, OURS, BOTH, HEAD), drawn=True)
    if not {FULL, OURS} <= runs.keys():
        return None
    figure, plots = panels(*(f"{LARGE}, {network.name}" for network in NETWORKS))
    for ax, network in zip(plots, NETWORKS, strict=True):
        for method, figures in runs.items():
            ax.plot(
                ends(figures, network),
                figures["accuracy_by_round"],
                color=_COLOUR[method],
                marker=".",
                label=_title(method),
            )
        ax.set_xscale("log")
        ax.set_xlabel("seconds")
        ax.set_ylabel("test, %")
    plots[0].legend(frameon=False, fontsize=7)
    return figure


PICTURES: Mapping[str, tuple[str, Callable[[Measured], Figure | None]]] = {
    "time-by-phase": ("Time by phase over a LAN and a WAN", time_by_phase),
    "shrinking-updates": ("Updates shrink as rounds go by", shrinking),
    "coordinates": ("The history of single coordinates", coordinates),
    "accuracy-by-bytes": ("Accuracy against bytes", accuracy_by_bytes),
    "accuracy-by-time": ("Accuracy against time on three networks", accuracy_by_time),
}
"""By file name: a caption, and what draws it; None where its cells were not measured."""
