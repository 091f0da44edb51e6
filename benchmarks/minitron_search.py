"""Sizes of a cut hybrid: does the loss as cut foretell the loss after distillation, and width or depth? It is asked as in Table 1 of arXiv 2504.11409.

    python benchmarks/minitron_search.py --jobs 2     # one subject, 12 sizes of 60 % and two of 82 %; resumes cell by cell
    python benchmarks/minitron_search.py --list       # the cells, and whether they are there
    python benchmarks/minitron_search.py --quick      # three sizes, as cut; writes nothing

The subject is that of benchmarks/minitron.py. Twelve sizes within 3 % of 60 % of its parameters, evenly spaced among all that there are,
from the evenest to the most uneven; and at 82 %, the two least important blocks against as many parameters of width. Each is cut by
activation, measured, and distilled for 80 steps: as many on as many sequences, counted. One subject: a rank correlation over sizes, no
verdict over seeds. Whatever it says is the result; 1 means that a number is missing.
Every size is a cell, a line in benchmarks/results/minitron_search.jsonl. Results: `benchmarks/results/minitron_search.{json,md,svg}`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure

from dictpfl.client.compress.cutting.axes import architecture_of
from dictpfl.client.compress.cutting.choose import Counted, sizes_within
from dictpfl.client.compress.cutting.shrink import budget_of, parameters, shrink_to
from dictpfl.deploy.reports.plots import COLOURS
from lib import hybrid
from lib.arms import Cells, Study, ahead, study_parser
from lib.machine import markdown_table, panels, preamble, write_results
from lib.shrinking import DISTILLED, TASK, calibrated, figures, speed, taught

SHARE, SIZES, BLOCKS, SEED = 0.6, 12, 6, 1
PARENT, DEPTH, WIDTH = "parent", "depth alone", "width alone"
COLUMNS: Mapping[str, str] = {
    "layers_block_type": "layers", "hidden_size": "width", "intermediate_size": "FFN", "mamba_num_heads": "heads",
    "mamba_head_dim": "channels",
}  # fmt: skip
"""The paper's columns, by setting."""


def arms() -> dict[str, dict[str, Any]]:
    """Sizes by name; they follow from shapes alone, so that an untrained model tells them."""
    model = hybrid.fresh(SEED)
    maker = architecture_of(model)
    axes = {axis.name: axis for axis in maker.axes(model)}
    every = sizes_within(model, axes, maker, budget_of(model, SHARE))
    made: dict[str, dict[str, Any]] = {PARENT: {"counts": {}}}
    for counts in (every[at] for at in spaced(len(every), SIZES)):
        name = ", ".join(f"{COLUMNS[setting]} {counts[setting]}" for setting in COLUMNS if setting in counts)
        made[name] = {"counts": counts}
    made[DEPTH] = {"counts": {"layers_block_type": BLOCKS}}
    made[WIDTH] = {"counts": {"hidden_size": width_of(model, without_blocks(model))}}
    return made


def spaced(count: int, wanted: int) -> list[int]:
    """Places of so many of a list, evenly spaced, first and last among them; all of a shorter one."""
    if count <= wanted:
        return list(range(count))
    return [at * (count - 1) // (wanted - 1) for at in range(wanted)]


def without_blocks(model: torch.nn.Module) -> int:
    """Parameters without the blocks that a cut of depth takes: two of neurons, the least important ones of the probe."""
    facts: Any = model
    kinds = list(facts.config.layers_block_type)
    block = next(
        sum(p.numel() for p in b.parameters()) for b, k in zip(blocks(model), kinds, strict=True) if k == "mlp"
    )
    return parameters(model) - (len(kinds) - BLOCKS) * block


def blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Blocks of a model, in their order."""
    return next(list(m) for m in model.modules() if isinstance(m, torch.nn.ModuleList))


def width_of(model: torch.nn.Module, budget: int) -> int:
    """Even width whose number of parameters is the nearest to a budget, all else as it is."""
    maker = architecture_of(model)
    counted = Counted(model, {axis.name: axis for axis in maker.axes(model)}, ["hidden_size"])
    return min(range(2, hybrid.MODEL["hidden_size"], 2), key=lambda n: abs(counted({"hidden_size": n}) - budget))


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure one size: parameters, sizes, loss as cut and distilled, speed."""
    torch.set_num_threads(1)
    parent = hybrid.subject(seed)
    found: dict[str, Any] = {"steps": 0, "samples": 0}
    if not arm["counts"]:
        return (
            found
            | figures(parent, "cut")
            | {"parameters": parameters(parent), "sizes": sizes_of(parent), "faster": 1.0}
        )
    maker = architecture_of(parent)
    axes = {axis.name: axis for axis in maker.axes(parent)}
    small = shrink_to(
        parent, axes, maker, arm["counts"], hybrid.both("calibration"), TASK, score="activation", total=calibrated(seed)
    ).model
    found |= figures(small, "cut") | {"parameters": parameters(small), "sizes": sizes_of(small)} | speed(parent, small)
    return found if arm.get("as cut") else found | taught(small, seed)


def sizes_of(model: torch.nn.Module) -> dict[str, int]:
    """The paper's columns of a model."""
    facts: Any = model
    told = {setting: getattr(facts.config, setting) for setting in COLUMNS}
    return {COLUMNS[s]: len(value) if isinstance(value, list) else int(value) for s, value in told.items()}


def correlation(cells: Cells) -> float:
    """Spearman's rank correlation of the loss as cut and after distillation, over the sizes of one budget."""
    from scipy.stats import spearmanr

    same = [arm for arm in cells.study.arms if arm not in (PARENT, DEPTH, WIDTH)]
    return float(spearmanr(*([cells.of(arm, f)[0] for arm in same] for f in ("cut", "taught"))).statistic)


def page(cells: Cells) -> str:
    """The Markdown page."""
    found = {arm: cells.found[arm, SEED] for arm in cells.study.arms}
    order = sorted(found, key=lambda arm: (arm != PARENT, arm in (DEPTH, WIDTH), found[arm]["cut"]))
    rows = [
        [arm if arm in (PARENT, DEPTH, WIDTH) else str(number), *(found[arm]["sizes"][c] for c in COLUMNS.values()),
         f"{found[arm]['parameters']:,}", f"{found[arm]['cut']:.3f}",
         f"{found[arm]['taught']:.3f}" if arm != PARENT else "-", f"{found[arm]['faster']:.2f}"]
        for number, arm in enumerate(order)
    ]  # fmt: skip
    depth, width = found[DEPTH], found[WIDTH]
    return f"""# Sizes of a cut hybrid

Over {len(found) - 3} sizes within 3 % of {SHARE:.0%} of the parameters, Spearman's rank correlation between the loss as cut and after {DISTILLED} steps of
distillation is {correlation(cells):.2f}. The loss without two blocks ({depth["parameters"]:,} parameters) minus that with less width ({width["parameters"]:,}) is
{depth["cut"] - width["cut"]:+.3f} nats as cut and {depth["taught"] - width["taught"]:+.3f} distilled (below 0: depth is better). One subject; no verdict over
seeds. Loss in nats a token, mean of messages and Python; *faster*: CPU time of the parent's forward pass over the size's.

{markdown_table(["", *COLUMNS.values(), "parameters", "as cut", "distilled", "faster"], rows)}

{preamble(cells.measured(), "python benchmarks/minitron_search.py")}

![loss distilled against loss as cut](minitron_search.svg)
"""


def draw(cells: Cells) -> Figure:
    """Loss after distillation against loss as cut."""
    figure, (plot,) = panels("sizes")
    for number, (name, chosen) in enumerate(
        {
            "one budget": [a for a in cells.study.arms if a not in (PARENT, DEPTH, WIDTH)],
            DEPTH: [DEPTH],
            WIDTH: [WIDTH],
        }.items()
    ):
        x, y = ([cells.of(arm, f)[0] for arm in chosen] for f in ("cut", "taught"))
        plot.scatter(x, y, color=COLOURS[number], label=name)
    plot.set_xlabel("loss as cut, nats")
    plot.set_ylabel(f"loss after {DISTILLED} steps, nats")
    plot.legend(frameon=False, fontsize=8)
    return figure


def main() -> int:
    """Measure what has no cell yet, and write the page."""
    asked = study_parser(__doc__, "three sizes, as cut; writes nothing", cells=True).parse_args()
    every = {name: {**arm, "subject": hybrid.made_of()} for name, arm in arms().items()}
    if asked.quick:
        every = {name: {**arm, "as cut": True} for name, arm in [*every.items()][1:4]}
    unequal = {PARENT: "nothing of it goes"}
    study = Study("minitron_search", measure, every, (SEED,), unequal, kept=not asked.quick)
    if asked.list:
        print(study.listed())
        return 0
    ahead(hybrid.subject, study.wanting, asked.jobs)
    cells = study.run(asked.jobs)
    if asked.quick:
        for arm in every:
            one = cells.found[arm, SEED]
            print(f"{arm}: {one['parameters']:,} parameters, {one['cut']:.4f}, {one['faster']:.2f} times faster")
        return 0
    text = page(cells)
    print(text)
    values = {
        "cells": {arm: cells.found[arm, SEED] for arm in every},
        "correlation": correlation(cells),
        "machine": cells.measured(),
    }
    write_results("minitron_search", values, text, draw(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
