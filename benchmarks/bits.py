"""Fewer bits a sent value: accuracy against bytes from 2 to 12 bits, each with the headroom that suits it.

    python benchmarks/bits.py            # MLP on digits, two seeds and twelve that judge; a quarter of an hour on two cores
    python benchmarks/bits.py --full     # three seeds; Dirichlet, without pruning, a ViT, Fashion-MNIST and MiniLM too
    python benchmarks/bits.py --quick    # four rounds, one seed, for a look; writes nothing

`headroom` is the grid's range in largest magnitudes of the last round: with few bits a wide grid rounds nearly everything to
zero, a narrow one clips the largest; either way the rest stays at the institution and goes with the next update (error feedback).
It is tuned for each number of bits alike, and a grid of headrooms grows until its best is not at its end. The best of each number
of bits, and the default, then run on seeds that chose nothing, and are compared there with 8 bits, seed by seed. Results go to
`benchmarks/results/bits.{json,md,svg}`. Exits with 1 if a requirement is not met.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from dictpfl.common.rounds import Grid
from dictpfl.deploy.attacks.intervals import gain_interval
from dictpfl.deploy.reports.plots import COLOURS
from lib.courses import Course, against_bytes, asked, averaged, last, measure_all
from lib.machine import (
    ROOT,
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

REFERENCE = 8
"""Bits that the others are compared with."""
ALLOWED = 0.2
"""Points of accuracy that the default's bits may cost against the reference."""
EXTENSIONS = 3
"""How often a grid of headrooms may be doubled or halved at its end."""


@dataclass(frozen=True)
class Case:
    """Data and model, and what is measured on them.

    Attributes:
        settings: dotted settings over the project's defaults.
        bits: numbers of bits.
        headrooms: grid that each number of bits begins with.
        judges: number of seeds, from 101 on, on which the tuned ones are compared.
        needs: path that must be there, and how to get it; empty: nothing.
    """

    settings: Mapping[str, Any]
    bits: Sequence[int] = (2, 3, 4, 5, 6, REFERENCE, 12)
    headrooms: Sequence[float] = (0.25, 0.5, 1.0, 2.0)
    judges: int = 12
    needs: tuple[str, str] = field(default=("", ""))

    @property
    def missing(self) -> str:
        """Sentence about what is not there of `needs`; empty: nothing is missing."""
        path, remedy = self.needs
        return f"{path} is missing: {remedy}" if path and not (ROOT / path).exists() else ""


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
_FASHION = {
    "data.source": "fashion_mnist",
    "data.path": "/usr/share/datasets/fashion-mnist",
    "data.limit": 6000,
    "federation.rounds": 12,
    "model.source": "cnn",
    "decomposition.rank": 8,
    "training.learning_rate": 4e-3,
}
_MINILM = {
    "data.source": "parquet",
    "data.path": "data/newsgroups.parquet",
    "data.label": "topic",
    "data.options": {"text": "text", "tokenizer": "data/minilm", "max_tokens": 32},
    "data.limit": 1200,
    "data.test_share": 0.5,  # 600 messages: fewer tell nothing about 0.2 points
    "federation.rounds": 4,
    "model.source": "transformers:data/minilm",
    "decomposition.rank": 4,
    "training.batch_size": 16,
    "training.optimizer": "adamw",
    "training.learning_rate": 1e-3,
    "training.head_learning_rate": 3e-2,
}
_FEW = (3, 4, REFERENCE)
CASES: Mapping[str, Case] = {
    "MLP, pruned": Case(_MLP),
    "MLP, pruned, Dirichlet 0.3": Case({**_MLP, "data.partition": "dirichlet", "data.alpha": 0.3}),
    "MLP, not pruned": Case({**_MLP, "pruning.enabled": False}),
    "ViT, pruned": Case(_VIT),
    "CNN, Fashion-MNIST": Case(_FASHION, bits=_FEW, headrooms=(0.25, 0.5, 1.0), judges=6,
                               needs=("/usr/share/datasets/fashion-mnist", "apt install dataset-fashion-mnist")),
    "MiniLM, newsgroups": Case(_MINILM, bits=_FEW, headrooms=(0.25, 0.5, 1.0), judges=6,
                               needs=("data/newsgroups.parquet", "run python experiments/fetch.py")),
}  # fmt: skip
SMALL = ("MLP, pruned",)
_FIXED = {"training.threads": 1, "training.device": "cpu"}
_JUDGING = 101


@dataclass(frozen=True)
class Arm:
    """One setting of one case."""

    case: str
    bits: int
    headroom: float

    def course(self, seed: int, rounds: int) -> Course:
        """Make its federation of that seed; `rounds` 0: as many as the case has."""
        short = {"federation.rounds": rounds} if rounds else {}
        grid = {"grid.value_bits": self.bits, "grid.headroom": self.headroom}
        return Course(f"{self.case}, {self.bits} bits, headroom {self.headroom:g}",
                      {**_FIXED, **CASES[self.case].settings, **grid, "seed": seed, **short})  # fmt: skip


Measured = dict[Arm, dict[int, Mapping[str, Any]]]
"""Result of each arm's course, by seed."""


def add(measured: Measured, arms: Iterable[Arm], seeds: Sequence[int], rounds: int, jobs: int) -> None:
    """Measure what is not measured yet."""
    missing = [(arm, seed) for arm in arms for seed in seeds if seed not in measured.setdefault(arm, {})]
    results = measure_all([arm.course(seed, rounds) for arm, seed in missing], jobs)
    for (arm, seed), result in zip(missing, results, strict=True):
        measured[arm][seed] = result


def accuracy(measured: Measured, arm: Arm, seeds: Sequence[int]) -> float:
    """Mean accuracy at the end over these seeds, in percent."""
    return statistics.fmean(last(measured[arm][seed]) for seed in seeds)


def tuned(measured: Measured, case: str, bits: int, seeds: Sequence[int]) -> Arm:
    """Choose the headroom with the best accuracy on the seeds that tune."""
    arms = [arm for arm in measured if (arm.case, arm.bits) == (case, bits)]
    return max(arms, key=lambda arm: accuracy(measured, arm, seeds))


def beyond(measured: Measured, best: Arm) -> list[Arm]:
    """Extend a grid of headrooms at the end where its best lies; empty where that lies inside."""
    grid = [arm.headroom for arm in measured if (arm.case, arm.bits) == (best.case, best.bits)]
    ends = {min(grid): best.headroom / 2, max(grid): best.headroom * 2}
    return [Arm(best.case, best.bits, ends[best.headroom])] if best.headroom in ends else []


def tune(cases: Sequence[str], seeds: Sequence[int], rounds: int, jobs: int) -> Measured:
    """Measure each case's grid, and beyond it where the best is at an end."""
    measured: Measured = {}
    pairs = [(case, bits) for case in cases for bits in CASES[case].bits]
    arms = [Arm(case, bits, headroom) for case, bits in pairs for headroom in CASES[case].headrooms]
    for _ in range(1 if rounds else EXTENSIONS + 1):
        add(measured, arms, seeds, rounds, jobs)
        arms = [arm for case, bits in pairs for arm in beyond(measured, tuned(measured, case, bits, seeds))]
    return measured


def figures(measured: Measured, cases: Sequence[str], seeds: Sequence[int], jobs: int) -> dict[str, Any]:
    """Run the tuned arms and the default on the seeds that judge; by case, a row for every arm, those judged with a difference."""
    rows: dict[str, Any] = {}
    for case in cases:
        judges = range(_JUDGING, _JUDGING + CASES[case].judges)
        best = {bits: tuned(measured, case, bits, seeds) for bits in CASES[case].bits}
        default = Arm(case, Grid().value_bits, Grid().headroom)
        add(measured, [default], seeds, 0, jobs)
        add(measured, [*best.values(), default], judges, 0, jobs)
        reference = [last(measured[best[REFERENCE]][seed]) for seed in judges]
        rows[case] = []
        for arm in sorted((arm for arm in measured if arm.case == case), key=lambda arm: (arm.bits, arm.headroom)):
            found = averaged([measured[arm][seed] for seed in seeds])
            row = {"bits": arm.bits, "headroom": arm.headroom, **found, "tuned": arm in best.values(), "judged": None}
            if row["tuned"] or arm == default:
                courses = [measured[arm][seed] for seed in judges]
                row["judged"] = averaged(courses) | {
                    "difference": gain_interval([last(course) for course in courses], reference).model_dump(),
                    "a_value": sum(sum(c["bytes"]) for c in courses) / sum(2 * sum(c["sent"]) for c in courses),
                }
            rows[case].append(row)
    return rows


def judged(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that were judged: of each number of bits at its tuned headroom, and of the default."""
    return [row for row in rows if row["judged"]]


def requirements(cases: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Requirement]:
    """What is promised of the default."""
    default, needed = Grid(), []
    for case, rows in cases.items():
        for row in judged(rows):
            if (row["bits"], row["headroom"]) == (default.value_bits, default.headroom) and row["bits"] != REFERENCE:
                cost = -row["judged"]["difference"]["value"]
                needed.append(Requirement(f"{case}: points that the default ({row['bits']} bits, headroom {row['headroom']:g}) costs "
                                          f"against {REFERENCE} bits", "at most", ALLOWED, cost, "points"))  # fmt: skip
    return needed


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The judged rows as Markdown."""
    heads = ["bits", "headroom", "accuracy, %", f"against {REFERENCE} bits, points (95 %)", "", "bytes of all rounds",
             "bytes a sent value, one way"]  # fmt: skip
    cells = []
    for row in judged(rows):
        bits, found, gap = row["bits"], row["judged"], row["judged"]["difference"]
        shown = "" if bits == REFERENCE else "no difference shown" if gap["low"] <= 0 <= gap["high"] else "a difference"
        against = "" if bits == REFERENCE else f"{gap['value']:+.2f} ({gap['low']:+.2f} to {gap['high']:+.2f})"
        cells.append([bits, f"{row['headroom']:g}", f"{found['accuracy']:.2f}", against, shown, f"{found['bytes']:,.0f}",
                      f"{found['a_value']:.2f}"])  # fmt: skip
    return markdown_table(heads, cells)


def grid(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy of every arm on the seeds that tune, as Markdown."""
    headrooms = sorted({row["headroom"] for row in rows})
    cells = {(row["bits"], row["headroom"]): row for row in rows}
    bits = sorted({row["bits"] for row in rows})
    lines = [[b, *(_cell(cells.get((b, h))) for h in headrooms)] for b in bits]
    return markdown_table(["bits \\ headroom", *(f"{h:g}" for h in headrooms)], lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"**{row['accuracy']:.2f}**" if row["tuned"] else f"{row['accuracy']:.2f}"


def plot(cases: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Accuracy against bytes, a line for each number of bits at its headroom."""
    figure, plots = panels(*cases, across=3)
    for ax, rows in zip(plots, cases.values(), strict=True):
        best = [row for row in judged(rows) if row["tuned"]]
        for colour, row in zip(COLOURS, best, strict=False):
            found = row["judged"]
            ax.plot([spent / 1e3 for spent in found["spent"]], found["curve"], color=colour,
                    label=f"{row['bits']} bits, headroom {row['headroom']:g}")  # fmt: skip
        against_bytes(ax)
        curves = [row["judged"]["curve"] for row in best]
        ax.set_ylim(bottom=max(0.0, min(min(curve[len(curve) // 4 :]) for curve in curves) - 2))
        ax.legend(frameon=False, fontsize=7)
    return figure


def page(result: Mapping[str, Any], wanted: Sequence[Requirement]) -> str:
    """The results as Markdown."""
    lines = ["# Fewer bits a value", "",
             "Three institutions. Accuracy: test split, mean of the last three rounds, over seeds. Bytes: what the product records of one "
             "institution, up and down. Headroom is tuned for each number of bits alike (bold), and compared on seeds that tuned nothing: "
             "differences are paired by seed, with Student's interval."]  # fmt: skip
    for case, rows in result["cases"].items():
        made = preamble(result["measured"][case], "python benchmarks/bits.py")
        seeds = ", ".join(judged(rows)[0]["judged"]["seeds"])
        lines += ["", f"## {case}", "", f"Compared on seeds {seeds}. {made}", "", table(rows), "",
                  f"Accuracy, %, on the seeds that tune ({', '.join(rows[0]['seeds'])}):", "", grid(rows)]  # fmt: skip
    return "\n".join(
        [*lines, "", "## Requirements", "", requirement_lines(wanted) or f"None: {REFERENCE} bits are the default."]
    )


def main() -> int:
    """Measure, write, judge."""
    given = asked("Fewer bits a sent value: accuracy against bytes.", tuple(CASES), SMALL)
    cases, facts = [case for case in given.cases if not CASES[case].missing], machine()
    for case in sorted(set(given.cases) - set(cases)):
        print(f"{case}: {CASES[case].missing}", file=sys.stderr)
    measured = tune(cases, given.seeds, 4 if given.quick else 0, given.jobs)
    if given.quick:
        for arm in measured:
            print(
                f"{arm.case}, {arm.bits} bits, headroom {arm.headroom:g}: {accuracy(measured, arm, given.seeds):.2f} %"
            )
        return 0
    rows = figures(measured, cases, given.seeds, given.jobs)
    for case, found in rows.items():
        print(f"\n{case}\n{table(found)}\n\n{grid(found)}")
    result = {
        "measured": {case: kept for case, kept in previous("bits", "measured").items() if case in CASES}
        | dict.fromkeys(cases, facts),
        "cases": {case: kept for case, kept in previous("bits", "cases").items() if case in CASES} | rows,
    }
    needed = requirements(result["cases"])
    result["requirements"] = [requirement.to_json() for requirement in needed]
    write_results("bits", result, page(result, needed), plot(result["cases"]))
    return conclude(needed)


if __name__ == "__main__":
    sys.exit(main())
