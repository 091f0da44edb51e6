"""Fewer bits a sent value: accuracy against bytes from 2 to 12 bits, and how wide the grid should be.

    python benchmarks/bits.py            # MLP on digits, two seeds; about two minutes on two cores
    python benchmarks/bits.py --full     # three seeds; Dirichlet, without pruning, and a ViT too
    python benchmarks/bits.py --quick    # four rounds, one seed, for a look; writes nothing

Fewer bits put more digits into a component, hence more values into a ciphertext; what rounding and clipping leave stays at
the institution and goes with the next update (error feedback). `headroom` is the grid's range in largest magnitudes of the
last round: with few bits a wide grid rounds nearly everything to zero, a narrow one clips the largest. Results go to
`benchmarks/results/bits.{json,md,svg}`. Exits with 1 if a requirement is not met.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.courses import Course, against_bytes, asked, at_bytes, averaged, measure_all
from benchmarks.exchange import Exchange
from benchmarks.machine import (
    Requirement,
    conclude,
    machine,
    markdown_table,
    panels,
    preamble,
    previous,
    requirement_lines,
    write_results,
)
from deploy.plots import COLOURS

BITS = (2, 3, 4, 6, 8, 12)
NARROW = 0.5
HEADROOMS = (2.0, NARROW)
_MLP = {
    "data.source": "digits",
    "federation.rounds": 40,
    "model.source": "mlp",
    "model.options": {"hidden": [128, 128]},
    "decomposition.rank": 8,
    "training.epochs": 2,
    "training.learning_rate": 4e-3,
}
_VIT = {
    "data.source": "digits",
    "data.public_share": 0.2,
    "federation.rounds": 30,
    "model.source": "vit_tiny",
    "model.options": {"dim": 64, "depth": 2},
    "model.pretrain.epochs": 30,
    "model.pretrain.classes": [0, 1, 2, 3, 4],
    "training.epochs": 2,
    "training.learning_rate": 4e-3,
}
CASES: Mapping[str, Mapping[str, Any]] = {
    "MLP, pruned": _MLP,
    "MLP, pruned, Dirichlet 0.3": {**_MLP, "data.partition": "dirichlet", "data.alpha": 0.3},
    "MLP, not pruned": {**_MLP, "pruning.enabled": False},
    "ViT, pruned": _VIT,
}
SMALL = ("MLP, pruned",)
_FIXED = {"training.threads": 1, "training.device": "cpu"}
COSTS = 1.0
"""Points that fewer bits may cost at the end of the rounds before they count as too few."""


def courses(cases: Sequence[str], seeds: Sequence[int], rounds: int) -> dict[tuple[str, int, float], list[Course]]:
    """Every case by bits and headroom, a course a seed."""
    short = {"federation.rounds": rounds} if rounds else {}
    return {
        (case, bits, headroom): [
            Course(f"{case}, {bits} bits, headroom {headroom:g}",
                   {**_FIXED, **CASES[case], "grid.value_bits": bits, "grid.headroom": headroom, "seed": seed, **short})
            for seed in seeds
        ]
        for case in cases for bits in BITS for headroom in HEADROOMS
    }  # fmt: skip


def density(bits: int, participants: int) -> dict[str, Any]:
    """Digits of a component, and bytes a value up where ciphertexts are full."""
    exchange = Exchange(participants, bits)
    per = exchange.digits.per_component * exchange.parameters.components
    return {"digits": exchange.digits.per_component, "up": exchange.item_up / per}


def figures(
    wanted: Mapping[tuple[str, int, float], Sequence[Course]], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """By case, a row for every number of bits and headroom."""
    left, cases = iter(results), {}
    for (case, bits, headroom), group in wanted.items():
        found = [next(left) for _ in group]
        cases.setdefault(case, []).append({"bits": bits, "headroom": headroom, "courses": found, **averaged(found)})
    for rows in cases.values():
        budget = min(row["stream"] for row in rows if row["bits"] == 4)
        for row in rows:
            reached = [at_bytes(found, budget) for found in row.pop("courses")]
            row["at_4_bits"] = None if None in reached else sum(r for r in reached if r is not None) / len(reached)
            row["budget"] = budget
    return cases


def narrow(rows: Sequence[Mapping[str, Any]], bits: int) -> Mapping[str, Any]:
    """So many bits at the narrow grid, which suits few of them."""
    return next(row for row in rows if (row["bits"], row["headroom"]) == (bits, NARROW))


def requirements(cases: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Requirement]:
    """What is promised of few bits."""
    found = []
    for case, rows in cases.items():
        eight = narrow(rows, 8)
        for bits in (6, 4):
            few = narrow(rows, bits)
            found.append(Requirement(f"{case}: points that {bits} bits cost against 8, headroom {NARROW:g}", "at most", COSTS,
                                     eight["accuracy"] - few["accuracy"], "points"))  # fmt: skip
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    heads = ["bits", "headroom", "digits a component", "bytes a value, up", "accuracy, %", "spread", "bytes of all rounds",
             "accuracy at the bytes of 4 bits, %"]  # fmt: skip
    cells = []
    for row in rows:
        dense = density(row["bits"], 3)
        at = "-" if row["at_4_bits"] is None else f"{row['at_4_bits']:.2f}"
        cells.append([row["bits"], f"{row['headroom']:g}", dense["digits"], f"{dense['up']:.2f}", f"{row['accuracy']:.2f}",
                      f"{row['spread']:.2f}", f"{row['stream']:,.0f}", at])  # fmt: skip
    return markdown_table(heads, cells)


def plot(cases: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Accuracy against bytes, a line for each number of bits, at the narrow grid."""
    figure, plots = panels(*cases)
    for ax, rows in zip(plots, cases.values(), strict=True):
        for colour, bits in zip(COLOURS, BITS, strict=False):
            row = narrow(rows, bits)
            ax.plot([spent / 1e3 for spent in row["spent"]], row["curve"], color=colour,
                    label=f"{bits} bits")  # fmt: skip
        against_bytes(ax)
        ax.set_ylim(bottom=max(0.0, min(min(row["curve"][len(row["curve"]) // 4 :]) for row in rows) - 2))
    plots[0].legend(frameon=False, fontsize=8)
    return figure


def page(result: Mapping[str, Any], wanted: Sequence[Requirement]) -> str:
    """The results as Markdown."""
    lines = ["# Fewer bits a value", "",
             "Digits, three institutions. Accuracy: test split, mean of the last three rounds, over seeds. Bytes: components at what a "
             "full ciphertext spends on one, up and down; a model this small fills one ciphertext of 33 kB whatever it sends. The "
             "first round goes wide, at any setting."]  # fmt: skip
    for case, rows in result["cases"].items():
        made = preamble(result["measured"][case], "python benchmarks/bits.py")
        lines += ["", f"## {case}", "", f"Seeds {', '.join(rows[0]['seeds'])}. {made}", "", table(rows)]
    dense = [
        [bits, *(f"{density(bits, n)['digits']} / {density(bits, n)['up']:.2f}" for n in (3, 8, 100))] for bits in BITS
    ]
    lines += ["", "## Digits of a component / bytes a value up, by institutions in a sum", "",
              markdown_table(["bits", "3", "8", "100"], dense), "", "## Requirements", "", requirement_lines(wanted)]  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Measure, write, judge."""
    found = asked("Fewer bits a sent value: accuracy against bytes.", tuple(CASES), SMALL)
    wanted, facts = courses(found.cases, found.seeds, 4 if found.quick else 0), machine()
    measured = measure_all([course for group in wanted.values() for course in group], found.jobs)
    cases = figures(wanted, measured)
    for case, rows in cases.items():
        print(f"\n{case}\n{table(rows)}")
    if found.quick:
        return 0
    result = {
        "measured": previous("bits", "measured") | dict.fromkeys(cases, facts),
        "cases": previous("bits", "cases") | cases,
    }
    judged = requirements(result["cases"])
    result["requirements"] = [requirement.to_json() for requirement in judged]
    write_results("bits", result, page(result, judged), plot(result["cases"]))
    return conclude(judged)


if __name__ == "__main__":
    sys.exit(main())
