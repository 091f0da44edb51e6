"""Page and picture of `lua.py`, and what its workloads are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dictpfl.client.compress.verdicts import BETTER, LEVEL, Interval, compared
from lib.arms import Cells
from lib.machine import Requirement, bars, markdown_table, panels, preamble, requirement_lines
from lib.sparse import ABOUT, ARMS, EQUAL, LUA, TRAINED

Rates = Mapping[float, Mapping[str, float]]
"""Learning rate of each arm that trains, by sparsity."""


@dataclass(frozen=True)
class Workload:
    """A model and its samples.

    Attributes:
        title: for the page's first line.
        sparsities: shares of zeros.
        steps, batch: of what trains.
        rates: grid of learning rates.
        tunes_each: False: rates are chosen at the first sparsity, for all.
        figure: what arms are compared by, "metric" (accuracy) or "loss".
    """

    title: str
    sparsities: tuple[float, ...]
    steps: int
    batch: int
    rates: tuple[float, ...]
    tunes_each: bool
    figure: str

    @property
    def higher(self) -> bool:
        """True where more is better."""
        return self.figure == "metric"


_PICTURES = {"sparsities": (0.8, 0.9), "steps": 200, "batch": 64, "rates": (3e-3, 1e-2, 3e-2), "tunes_each": True}
WORKLOADS: Mapping[str, Workload] = {
    "fashion": Workload("Fashion-MNIST, a perceptron", **_PICTURES, figure="metric"),  # type: ignore[arg-type]
    "vit": Workload("Fashion-MNIST, a small vision transformer", **_PICTURES, figure="metric"),  # type: ignore[arg-type]
    "language": Workload("SmolLM2-135M on tales", (0.6, 0.7), 120, 2, (3e-3, 1e-2, 2e-2), tunes_each=False, figure="loss"),
}  # fmt: skip


def page(name: str, found: Mapping[float, Cells], rates: Rates, command: str) -> str:
    """The Markdown page."""
    return "\n".join(_lines(name, found, rates, command)) + "\n"


def _lines(name: str, found: Mapping[float, Cells], rates: Rates, command: str) -> Iterator[str]:
    workload, any_cells = WORKLOADS[name], next(iter(found.values()))
    yield f"# Lua-LLM: {workload.title}\n"
    yield from _nulls(name, found)
    if name == "language":
        yield "*Dense* means SmolLM2-135M-Instruct's 4-bit checkpoint, widened to float32, not the published float model.\n"
    yield preamble(any_cells.measured(), command)
    arm = any_cells.study.arms[LUA]
    where = "" if workload.tunes_each else f" at {workload.sparsities[0]:.0%} zeros"
    how = "the middle of the grid" if arm["quick"] else f"chosen on validation samples of another seed{where}"
    yield (
        f"\nEvery arm has the same number of zeros, counted. Those that train take {arm['steps']} steps of {arm['batch']} samples, counted too, at a rate of "
        f"their own, {how}: {_chosen(workload, rates)}.\n"
    )
    if stated := requirements(name, found):
        yield requirement_lines(stated)
    for p, cells in found.items():
        yield f"\n## {100 * p:g} % zeros\n"
        yield markdown_table(*_table(workload, cells))
    yield f"\n![{'accuracy' if workload.higher else 'loss'} of every arm](lua_{name}.svg)"


def _chosen(workload: Workload, rates: Rates) -> str:
    shown = rates if workload.tunes_each else {workload.sparsities[0]: next(iter(rates.values()))}
    at = [
        ("" if not workload.tunes_each else f"at {p:.0%} zeros ")
        + ", ".join(f"`{arm}` {one[arm]:g}" for arm in TRAINED)
        for p, one in shown.items()
    ]
    return "; ".join(at)


def _nulls(name: str, found: Mapping[float, Cells]) -> Iterator[str]:
    """Say where thresholds did no better than what trains as long, or than one threshold a matrix."""
    for p, cells in found.items():
        for rival in (EQUAL, "matrix-means"):
            said = against(name, cells, rival).verdict
            if said != BETTER:
                why = "no difference is shown to" if said == LEVEL else "Lua is worse than"
                what = " (norms and biases trained on Wanda's mask for as many steps)" if rival == EQUAL else ""
                yield f"**Allocation within matrices was not shown to matter at {p:.0%} zeros: {why} `{rival}`{what} there.**\n"
        worse = [
            f"`{rival}`" for rival in ("shuffled", "matrix-means") if against(name, cells, rival).verdict == BETTER
        ]
        if worse:
            yield f"At {p:.0%} zeros Lua is better than {' and '.join(worse)}: with its own training, which row gets which threshold does matter.\n"


def _table(workload: Workload, cells: Cells) -> tuple[list[str], list[list[str]]]:
    figure = "accuracy, %" if workload.higher else "loss"
    heads = ["arm", "", f"{figure}, mean of {len(cells.study.seeds)} seeds"]
    heads += [] if workload.higher else ["perplexity", "perplexity elsewhere"]
    rows = []
    for arm in ARMS:
        row = [arm, ABOUT[arm], f"{fmean(values(workload, cells, arm)):.2f}"]
        if not workload.higher:
            row += [f"{perplexity(cells, arm, held):.1f}" for held in ("test", "elsewhere")]
        told = compared(values(workload, cells, LUA), values(workload, cells, arm), higher=workload.higher)
        rows.append([*row, "" if arm == LUA else f"{told} {told.verdict}"])
    return [*heads, "lua against it, 95 % interval; above 0 is better"], rows


def values(workload: Workload, cells: Cells, arm: str, held: str = "test") -> list[float]:
    """Figures of an arm, seed by seed: accuracy in per cent, or the loss."""
    scale = 100 if workload.higher else 1
    return [scale * float(one[held][workload.figure]) for one in cells.of(arm, "figures")]


def perplexity(cells: Cells, arm: str, held: str = "test") -> float:
    """Perplexity of the mean loss over seeds."""
    return float(np.exp(fmean(float(one[held]["loss"]) for one in cells.of(arm, "figures"))))


def against(name: str, cells: Cells, rival: str) -> Interval:
    """Lua against a rival, paired by seed."""
    workload = WORKLOADS[name]
    return compared(values(workload, cells, LUA), values(workload, cells, rival), higher=workload.higher)


def requirements(name: str, found: Mapping[float, Cells]) -> list[Requirement]:
    """Promises of the plan, by sparsity: points of accuracy above rivals, or shares of their perplexity."""
    workload, made = WORKLOADS[name], []
    for p, cells in found.items():
        if name == "fashion":
            means = {arm: fmean(values(workload, cells, arm)) for arm in ARMS}
            pruned, trained = (2.0, 1.0) if p < 0.85 else (8.0, 4.0)
            rival = means[LUA] - max(means["wanda"], means["global-wanda"])
            made += [
                Requirement(f"{p:.0%} zeros, above the best of Wanda and global Wanda", "at least", pruned, rival, "points"),
                Requirement(f"{p:.0%} zeros, above equal steps", "at least", trained, means[LUA] - means[EQUAL], "points"),
            ]  # fmt: skip
        elif name == "language":
            for arm, bound in (("wanda", 0.75 if p < 0.65 else 0.7), ("shuffled", 0.75)):
                share = perplexity(cells, LUA) / perplexity(cells, arm)
                made.append(Requirement(f"{p:.0%} zeros, perplexity as a share of {arm}'s", "at most", bound, share))
            share = perplexity(cells, LUA, "elsewhere") / perplexity(cells, "wanda", "elsewhere")
            made.append(Requirement(f"{p:.0%} zeros, elsewhere, as a share of wanda's", "at most", 1.0, share))
    return made


def document(name: str, found: Mapping[float, Cells], rates: Rates) -> dict[str, Any]:
    """Everything measured, as JSON values."""
    workload = WORKLOADS[name]
    return {
        "workload": name,
        "rates": {f"{p:g}": dict(one) for p, one in rates.items()},
        "requirements": [str(one) for one in requirements(name, found)],
        "sparsities": {
            f"{p:g}": {
                arm: {
                    "figures": cells.of(arm, "figures"), "steps": cells.of(arm, "steps")[0], "zeros": cells.of(arm, "zeros"),
                    **({} if arm == LUA else {"lua against it": _told(against(name, cells, arm))}),
                }
                for arm in ARMS
            }
            for p, cells in found.items()
        },
        "figure": workload.figure,
        "machine": next(iter(found.values())).measured(),
    }  # fmt: skip


def _told(one: Interval) -> dict[str, Any]:
    ends = [None, None] if one.count == 1 else [one.low, one.high]
    return {"mean": one.mean, "low": ends[0], "high": ends[1], "verdict": one.verdict}


def draw(name: str, found: Mapping[float, Cells]) -> Figure:
    """A bar for every arm, by sparsity."""
    workload = WORKLOADS[name]
    what = "accuracy, %" if workload.higher else "loss, nats a token"
    figure, plots = panels(*(f"{100 * p:g} % zeros: {what}" for p in found))
    for ax, cells in zip(plots, found.values(), strict=True):
        bars(ax, {arm: values(workload, cells, arm) for arm in ARMS})
        ends = [v for arm in ARMS for v in values(workload, cells, arm)]
        ax.set_xlim(left=max(0.0, min(ends) - 0.15 * (max(ends) - min(ends))))
    return figure
