"""How few values may an institution send in a whole federation, and does it matter in which rounds?

    python benchmarks/budget.py           # digits, 3 seeds: constant s, and budgets of 25, 50 and 100 % of what that sends, three ways
    python benchmarks/budget.py --list    # its cells, and which are there
    python benchmarks/budget.py --quick   # one seed, the budget of a half, 8 rounds; writes nothing

The federation of experiments/digits.toml, without encryption, which changes no figure (the tests hold the digests equal). *Constant* prunes as the
experiment does and has no budget; what it sends with a seed is 100 %. *Logistic* spends a share of that along a falling curve, *even* the same number
in every round, *rising* along the curve turned round; all three exactly. Every federation is a cell in benchmarks/.cells, so that what is broken off
goes on. A null exits 0; 1 means that a budget was not spent exactly. Results: `benchmarks/results/budget.{json,md,svg}`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from dictpfl.client.compress.verdicts import compared
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import Claim, claims_table, spread
from lib.federations import Cell, measure_all
from lib.machine import Requirement, count_of, markdown_table, panels, preamble, requirement_lines, write_results

EXPERIMENT, CONSTANT, ASKED = "digits", "constant", 1.5
SHARES = (25, 50, 100)
SLOPES = {"logistic": 6.0, "even": 0.0, "rising": -6.0}
Found = dict[tuple[str, int], list[dict[str, Any]]]
"""Figures of a schedule and a share, seed by seed."""


@dataclass(frozen=True)
class Plan:
    """Seeds, shares and rounds of a measurement."""

    seeds: tuple[int, ...]
    shares: tuple[int, ...]
    rounds: int

    def cell(self, seed: int, schedule: str, values: int = 0, share: int = 100) -> Cell:
        """One federation."""
        said: dict[str, Any] = {"seed": seed, "encryption.sealer": "identity", "toy_insecure": True, "federation.rounds": self.rounds,
                                "training.threads": 1}  # fmt: skip
        if schedule != CONSTANT:
            said |= {"pruning.schedule": "logistic", "pruning.budget": {"values": values, "slope": SLOPES[schedule]}}
        return Cell(f"budget-{schedule}-{share}-{seed}", said, EXPERIMENT)


def measured(plan: Plan, jobs: int) -> Found:
    """Run what is missing: constant first, since the others have shares of what it sends.

    Raises:
        AssertionError: a budget that was not spent to the value.
    """
    whole = measure_all([plan.cell(seed, CONSTANT) for seed in plan.seeds], jobs)
    sent = {seed: int(one["values"]["sent"]) for seed, one in zip(plan.seeds, whole, strict=True)}
    wanted = [(schedule, share, seed) for seed in plan.seeds for share in plan.shares for schedule in SLOPES]
    cells = [plan.cell(seed, schedule, sent[seed] * share // 100, share) for schedule, share, seed in wanted]
    found: Found = {(CONSTANT, 100): whole}
    for (schedule, share, seed), one in zip(wanted, measure_all(cells, jobs), strict=True):
        asked = sent[seed] * share // 100
        assert one["values"]["sent"] == asked, (
            f"{schedule}, {share} %, seed {seed}: {one['values']['sent']} of {asked} values"
        )
        found.setdefault((schedule, share), []).append(one)
    return found


def accuracies(found: Found, schedule: str, share: int) -> list[float]:
    """Test accuracy in percent, the mean of the last three rounds, seed by seed."""
    return [float(one["accuracy"]) for one in found[schedule, share]]


def claims(found: Found) -> list[Claim]:
    """Every budget against constant s, and the curve against the other two ways at the same budget."""
    whole, made = accuracies(found, CONSTANT, 100), []
    for schedule, share in found:
        if schedule != CONSTANT:
            name = f"{schedule}, {share} %"
            made.append(Claim("accuracy", name, CONSTANT, compared(accuracies(found, schedule, share), whole)))
    for share in dict.fromkeys(share for schedule, share in found if schedule != CONSTANT):
        for rival in ("even", "rising"):
            against = compared(accuracies(found, "logistic", share), accuracies(found, rival, share))
            made.append(Claim("accuracy", f"logistic, {share} %", f"{rival}, {share} %", against))
    return made


def requirements(found: Found) -> list[Requirement]:
    """The promise of the plan: half of the values cost at most 1.5 points."""
    lost = fmean(accuracies(found, CONSTANT, 100)) - fmean(accuracies(found, "logistic", 50))
    return [Requirement("logistic at 50 % of the values below constant s at 100 %", "at most", ASKED, lost, "points")]


def opening(found: Found) -> str:
    """Say first what was not shown."""
    shapes = [c for c in claims(found) if c.rival != CONSTANT]
    better = [f"{c.arm} against {c.rival}" for c in shapes if c.verdict == "better"]
    worse = [f"{c.arm} against {c.rival}" for c in shapes if c.verdict == "worse"]
    first = (
        f"The curve helped: {'; '.join(better)}."
        if better
        else "In which rounds a budget is spent was not shown to matter."
    )
    return first + (f" The curve was worse: {'; '.join(worse)}." if worse else "")


def page(found: Found, plan: Plan) -> str:
    """benchmarks/results/budget.md."""
    rows = []
    for (schedule, share), cells in found.items():
        values = accuracies(found, schedule, share)
        rows.append(
            [
                schedule,
                f"{share} %",
                spread(values, 2),
                f"{fmean(one['values']['sent'] for one in cells):,.0f}",
            ]
        )
    newest = max((one["machine"] for cells in found.values() for one in cells), key=lambda facts: facts["date"])
    return f"""# Budgets of sent values

{opening(found)}

Test accuracy in percent, the mean of the last three of {plan.rounds} rounds, {len(plan.seeds)} seeds, mean ± standard deviation. *Values*: what an institution
sends in all update rounds together; those of a budget are spent exactly. [How](../../docs/how-to/fewer-bytes.md).

{markdown_table(["schedule", "budget", "accuracy, %", "values"], rows)}

{preamble(newest, "python benchmarks/budget.py")}

## Verdicts

{claims_table(claims(found))}

## Requirements

{requirement_lines(requirements(found))}

![accuracy by budget](budget.svg)
"""


def draw(found: Found) -> Figure:
    """Accuracy by budget, a line a schedule."""
    figure, (axis,) = panels("digits, % right")
    for number, schedule in enumerate(SLOPES):
        shares = [share for name, share in found if name == schedule]
        axis.plot(
            shares,
            [fmean(accuracies(found, schedule, s)) for s in shares],
            marker="o",
            color=COLOURS[number],
            label=schedule,
        )
    axis.axhline(fmean(accuracies(found, CONSTANT, 100)), color="black", linestyle=":", label="constant s")
    axis.set_xlabel("values sent, % of what constant s sends")
    axis.legend(frameon=False, fontsize=8)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write unless it was a look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, a half, 8 rounds; writes nothing")
    parser.add_argument("--list", action="store_true", help="the cells, and whether they are there")
    parser.add_argument(
        "--seeds", type=count_of, default=3, help="number of seeds, beginning with 1; the page says how many"
    )
    parser.add_argument("--jobs", type=count_of, default=1, help="processes at a time")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    plan = Plan((1,), (50,), 8) if asked.quick else Plan(tuple(range(1, asked.seeds + 1)), SHARES, 30)
    if asked.list:
        for seed in plan.seeds:
            here = plan.cell(seed, CONSTANT).path.exists()
            print(
                f"{CONSTANT}, seed {seed}: {'there' if here else 'missing'}; then {len(plan.shares) * len(SLOPES)} budgets of its values"
            )
        return 0
    found = measured(plan, asked.jobs)
    text = page(found, plan)
    print(text)
    if not asked.quick:
        figures = {"cells": {f"{schedule}, {share} %": cells for (schedule, share), cells in found.items()},
                   "claims": [c.to_json() for c in claims(found)], "requirements": [r.to_json() for r in requirements(found)]}  # fmt: skip
        write_results("budget", figures, text, draw(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
