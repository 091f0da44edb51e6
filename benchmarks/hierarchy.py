"""Can a skill that rests on other skills be learnt alone, and does averaging weights stand in for data that holds all of them?

    python benchmarks/hierarchy.py              # 10 seeds, 8 million samples an arm: about an hour of one core; resumes
    python benchmarks/hierarchy.py --list       # the cells, and whether they are there
    python benchmarks/hierarchy.py --quick      # one seed, a tenth of the steps, for a look; writes nothing
    python benchmarks/hierarchy.py --jobs 2     # processes at a time

Compositional multitask sparse parity (Michaud, Parker-Sartori, Tegmark 2025, section 3), 24 task bits, four skills of three bits, an MLP
28-128-128-2, Adam 1e-3 (eps 1e-5), fresh samples at every step. The composite is the parity of all twelve bits. Arms, all of
8,000 steps of 1,000 samples: with the atoms in the mix, alone, and as five institutions whose weights are averaged every 20
steps (200 samples each, a fresh Adam a round): each with all codes, and each with one. A null exits 0; 1 means a number is missing.
Averages are plain here: what a federation adds is, encrypted or not, the same sum. Every arm and seed is a cell, a line in
benchmarks/results/hierarchy.jsonl. Results: `benchmarks/results/hierarchy.{json,md,svg}`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from dictpfl.client.data.sources.parity import Parity
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import Cells, Study, claims_table, study_parser
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines, write_results

BITS, SIZE, SKILLS, WIDTH = 24, 3, 4, 128
BATCH, STEPS, ROUND, LOOK = 1000, 8000, 20, 200
LEARNT = 98.0
WITH, ALONE, ALL, ONE = "with atoms", "alone", "federated, all codes each", "federated, one code each"
ARMS: Mapping[str, Mapping[str, Any]] = {
    WITH: {"codes": "all", "institutions": 1},
    ALONE: {"codes": "composite", "institutions": 1},
    ALL: {"codes": "all", "institutions": 5},
    ONE: {"codes": "one", "institutions": 5},
}
_TESTED = 2000


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train one arm under one seed, and look at composite and atoms every 200 steps."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    task = Parity.drawn(seed, bits=BITS, size=SIZE, skills=SKILLS)
    composite, random = task.codes[-1], np.random.default_rng([seed, 7])
    held = {code: task.samples(code, _TESTED, np.random.default_rng([seed, 8, *code])) for code in task.codes}
    model, count, steps = mlp((task.width,), 2, (WIDTH, WIDTH)), int(arm["institutions"]), int(arm["steps"])
    mixes: Sequence[Sequence[tuple[int, ...]]] = [task.codes] * count
    if arm["codes"] != "all":
        mixes = [(composite,)] if arm["codes"] == "composite" else [(code,) for code in task.codes]
    members = [copy.deepcopy(model) for _ in mixes]
    optimizers = [_adam(m) for m in members]
    taken = seen = 0
    curve: list[list[float]] = []
    while taken < steps:
        for _ in range(ROUND):
            for member, optimizer, codes in zip(members, optimizers, mixes, strict=True):
                drawn = task.mixed(codes, BATCH // count // len(codes), random)
                optimizer.zero_grad(set_to_none=True)
                outputs = member(torch.from_numpy(drawn.features))
                torch.autograd.backward(nn.functional.cross_entropy(outputs, torch.from_numpy(drawn.labels)))
                optimizer.step()
                seen += len(drawn)
            taken += 1
        if count > 1:
            _averaged(members)
            optimizers = [_adam(m) for m in members]
        if not taken % LOOK:
            right = {code: _right(members[0], held[code]) for code in task.codes}
            curve.append([taken, right[composite], fmean(v for code, v in right.items() if code != composite)])
    reached = [row[0] for row in curve if row[1] >= LEARNT]
    return {"steps": taken, "samples": seen, "curve": curve, "composite": curve[-1][1], "atoms": curve[-1][2],
            "reached": reached[0] if reached else None}  # fmt: skip


def _adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)


@torch.no_grad()
def _averaged(members: Sequence[nn.Module]) -> None:
    for parts in zip(*(m.parameters() for m in members), strict=True):
        mean = torch.stack([p.double() for p in parts]).mean(dim=0)
        for part in parts:
            part.copy_(mean)


@torch.no_grad()
def _right(model: nn.Module, samples: Any) -> float:
    outputs = model(torch.from_numpy(samples.features))
    return 100.0 * float((outputs.argmax(dim=1).numpy() == samples.labels).mean())


def requirements(cells: Cells) -> list[Requirement]:
    """Judge what was asked of this study beforehand: 8 of 10 with atoms, none alone."""
    share = {
        arm: sum(r is not None for r in cells.of(arm, "reached")) / len(cells.study.seeds) for arm in (WITH, ALONE)
    }
    return [
        Requirement(f"share of seeds that reach {LEARNT:g} % with atoms", "at least", 0.8, share[WITH]),
        Requirement(f"share of seeds that reach {LEARNT:g} % alone", "at most", 0.0, share[ALONE]),
    ]


def page(cells: Cells) -> str:
    """benchmarks/results/hierarchy.md."""
    seeds, one = cells.study.seeds, cells.found[WITH, cells.study.seeds[0]]
    rows = []
    for arm in cells.study.arms:
        reached = [r for r in cells.of(arm, "reached") if r is not None]
        when = " to ".join(dict.fromkeys((f"{min(reached):,}", f"{max(reached):,}"))) if reached else "-"
        atoms = "-" if arm == ALONE else f"{fmean(cells.of(arm, 'atoms')):.1f}"
        rows.append([arm, f"{len(reached)} of {len(seeds)}", when, f"{fmean(cells.of(arm, 'composite')):.1f}", atoms])
    claims = [
        cells.claim("composite", arm, rival)
        for arm, rival in ((WITH, ALONE), (ALL, ALONE), (ALL, WITH), (ONE, ALONE), (ONE, ALL))
    ]
    return f"""# Skills that rest on skills

Parity of twelve of 24 bits, with and without the four parities of three bits that it is made of. {len(seeds)} seeds; every arm took
{one["steps"]:,} steps and {one["samples"]:,} fresh samples in all, counted; five institutions share the samples between them and average
their weights every {ROUND} steps. *Reached*: {LEARNT:g} % on {_TESTED:,} held-out samples, looked at every {LOOK} steps.

{markdown_table(["arm", "reached", "after steps", "composite at the end, %", "atoms at the end, %"], rows)}

{preamble(cells.measured(), "python benchmarks/hierarchy.py")}

## Verdicts

{claims_table(claims)}

## Requirements

{requirement_lines(requirements(cells))}

![composite by step](hierarchy.svg)
"""


def draw(cells: Cells) -> Figure:
    """Accuracy of the composite by step, a line a seed."""
    figure, plots = panels(*cells.study.arms, across=2)
    for plot, (arm, colour) in zip(plots, zip(cells.study.arms, COLOURS, strict=False), strict=True):
        for curve in cells.of(arm, "curve"):
            plot.plot([row[0] for row in curve], [row[1] for row in curve], color=colour, lw=0.9)
        plot.set_ylim(45, 101)
        plot.set_xlabel("steps")
        plot.set_ylabel("composite, %")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write unless it was a look."""
    asked = study_parser(__doc__, "one seed, a tenth of the steps; writes nothing", seeds=10, cells=True).parse_args(
        arguments
    )
    seeds, steps = (range(1), STEPS // 10) if asked.quick else (range(asked.seeds), STEPS)
    arms = {name: {**arm, "steps": steps} for name, arm in ARMS.items()}
    study = Study("hierarchy", measure, arms, tuple(seeds), kept=not asked.quick)
    if asked.list:
        print(study.listed())
        return 0
    cells = study.run(asked.jobs)
    text = page(cells)
    print(text)
    if not asked.quick:
        figures = {"cells": cells.named(),
                   "requirements": [r.to_json() for r in requirements(cells)], "machine": cells.measured()}  # fmt: skip
        write_results("hierarchy", figures, text, draw(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
