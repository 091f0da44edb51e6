"""Dictionaries that change while pruning goes on: does it close the gap of a small CNN, and at what price in bytes?

    python benchmarks/refresh.py             # CNN on digits, 15 short rounds, few policies; a minute or two on two cores
    python benchmarks/refresh.py --full      # three seeds, all policies, and a CNN and a ViT on Fashion-MNIST; hours
    python benchmarks/refresh.py --quick     # four rounds, one seed, for a look; writes nothing

From random weights, where a fixed dictionary of low rank costs most. A refresh sends nothing, but with
`refresh_history = "forget"` pruning begins anew, so rounds alone would flatter it: what counts is accuracy at the same bytes.
Fashion-MNIST has to be in data/fashion-mnist (experiments/fashion_mnist.toml says where from); without it `--full` leaves it
out, and says so. Results go to `benchmarks/results/refresh.{json,md,svg}`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dictpfl.deploy.reports.plots import COLOURS
from lib.courses import Course, against_bytes, asked, at_bytes, averaged, measure_all
from lib.machine import ROOT, machine, markdown_table, panels, preamble, previous, write_results

FULL, FIXED = "full, 8 bits", "fixed D, pruned"
_EVERY, _KEEP = "decomposition.refresh_every", {"decomposition.refresh_history": "keep"}
_PLAIN = {"pruning.enabled": False}


def _stall(when: str, share: float) -> dict[str, Any]:
    return {_EVERY: 2, "decomposition.refresh_when": when, "decomposition.refresh_stall": share}


def _ranks(*ranks: int) -> dict[str, Any]:
    return {_EVERY: 5, "decomposition.rank": max(ranks), "decomposition.refresh_ranks": list(ranks)}


METHODS: Mapping[str, Mapping[str, Any]] = {
    FULL: {"method": "fedhe-full", "training.learning_rate": 2e-3},
    "fixed D, not pruned": _PLAIN,
    FIXED: {},
    "rank 16, pruned": {"decomposition.rank": 16},
    "M = 2, not pruned": {_EVERY: 2, **_PLAIN},
    "M = 2, forget": {_EVERY: 2},
    "M = 5, forget": {_EVERY: 5},
    "M = 5, keep": {_EVERY: 5, **_KEEP},
    "stall 0.7, forget": _stall("stall", 0.7),
    "stall 0.7 a table, forget": _stall("stall-tensor", 0.7),
    "ranks 2, 4, 8, M = 5, forget": _ranks(2, 4, 8),
    "ranks 8, 4, 2, M = 5, forget": _ranks(8, 4, 2),
}
_FEW = (FULL, FIXED, "rank 16, pruned", "M = 5, forget")
_FASHION = {
    "data.source": "fashion_mnist",
    "data.path": "data/fashion-mnist",
    "data.limit": 6000,
    "federation.rounds": 20,
}
CASES: Mapping[str, tuple[Mapping[str, Any], Sequence[str]]] = {
    "CNN, digits": (
        {"data.source": "digits", "federation.rounds": 30, "model.source": "cnn", "training.epochs": 2},
        tuple(METHODS),
    ),
    "CNN, digits, 15 short rounds": (
        {"data.source": "digits", "federation.rounds": 15, "model.source": "cnn", "training.epochs": 1},
        _FEW,
    ),
    "CNN, Fashion-MNIST": ({**_FASHION, "model.source": "cnn"}, _FEW),
    "ViT, Fashion-MNIST": (
        {**_FASHION, "model.source": "vit_tiny", "model.options": {"dim": 64, "depth": 2, "patch": 4}},
        _FEW,
    ),
}
_SMALL = ("CNN, digits, 15 short rounds",)
_COMMON = {"decomposition.rank": 4, "training.learning_rate": 4e-3, "training.threads": 1, "training.device": "cpu"}


def courses(cases: Sequence[str], seeds: Sequence[int], rounds: int) -> dict[tuple[str, str], list[Course]]:
    """Every case by method, a course a seed."""
    short = {"federation.rounds": rounds} if rounds else {}
    return {
        (case, method): [
            Course(f"{case}: {method}", {**_COMMON, **CASES[case][0], **METHODS[method], **short, "seed": seed})
            for seed in seeds
        ]
        for case in cases
        for method in CASES[case][1]
    }


def figures(
    wanted: Mapping[tuple[str, str], Sequence[Course]], results: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """By case and method; `at_budget`: accuracy at the bytes that the pruned fixed dictionary spends in all."""
    left, cases = iter(results), {}
    for (case, method), group in wanted.items():
        found = [next(left) for _ in group]
        refreshes = [len(one["refreshed"]) for one in found]
        cases.setdefault(case, {})[method] = {
            "courses": found,
            "refreshes": sum(refreshes) / len(refreshes),
            **averaged(found),
        }
    for methods in cases.values():
        budget = methods[FIXED]["bytes"]
        for row in methods.values():
            reached = [at_bytes(found, budget) for found in row.pop("courses")]
            row["at_budget"] = None if None in reached else sum(r for r in reached if r is not None) / len(reached)
    return cases


def closed(methods: Mapping[str, Mapping[str, Any]], method: str) -> float:
    """Share of the gap between the pruned fixed dictionary and full fine-tuning that a method closes, in percent."""
    gap = methods[FULL]["accuracy"] - methods[FIXED]["accuracy"]
    return 100 * (methods[method]["accuracy"] - methods[FIXED]["accuracy"]) / gap if gap > 0 else float("nan")


def table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a method."""
    heads = ["", "accuracy, %", "spread", "of the gap closed, %", "kB in all", "values sent, % of full",
             f"accuracy at the bytes of `{FIXED}`, %", "refreshes"]  # fmt: skip
    rows = [
        [name, f"{row['accuracy']:.2f}", f"{row['spread']:.2f}" if len(row["seeds"]) > 1 else "-", f"{closed(methods, name):.0f}", f"{row['bytes'] / 1e3:,.0f}",
         f"{row['share']:.1f}", "-" if row["at_budget"] is None else f"{row['at_budget']:.2f}", f"{row['refreshes']:.0f}"]
        for name, row in methods.items()
    ]  # fmt: skip
    return markdown_table(heads, rows)


_SHOWN = (FULL, FIXED, "rank 16, pruned", "M = 2, not pruned", "M = 2, forget", "M = 5, keep", "stall 0.7, forget")


def plot(cases: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Accuracy against bytes, a panel a case."""
    figure, plots = panels(*cases)
    for ax, methods in zip(plots, cases.values(), strict=True):
        for colour, name in zip(COLOURS, _SHOWN, strict=True):
            if name in methods:
                row = methods[name]
                ax.plot([spent / 1e3 for spent in row["spent"]], row["curve"], color=colour, label=name)
        against_bytes(ax)
        ax.set_ylim(bottom=max(0.0, methods[FIXED]["curve"][len(methods[FIXED]["curve"]) // 3] - 10))
    plots[0].legend(frameon=False, fontsize=7, loc="lower right")
    return figure


def page(result: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Dictionaries that change while pruning goes on", "",
             "Three institutions, IID, random W0, rank 4 unless said, one or two local epochs a round. Accuracy: test split, mean of "
             "the last three rounds, over seeds; rates: 4e-3, full 2e-3, not tuned for each method. Bytes: what the product "
             "records of one institution, up and down. `forget`, `keep`: what pruning does with a refreshed table's history."]  # fmt: skip
    for case, methods in result["cases"].items():
        facts = result["measured"][case]
        seeds = ", ".join(methods[FIXED]["seeds"])
        lines += [
            "",
            f"## {case}",
            "",
            f"Seeds {seeds}. {preamble(facts, 'python benchmarks/refresh.py')}",
            "",
            table(methods),
        ]
    return "\n".join(lines)


def main() -> int:
    """Measure and write."""
    found = asked("Dictionaries that change while pruning goes on.", tuple(CASES), _SMALL)
    names = found.cases
    if not (ROOT / _FASHION["data.path"]).exists() and any("Fashion" in name for name in names):
        print(
            "Fashion-MNIST is not in data/fashion-mnist and is left out; experiments/fashion_mnist.toml says how to get it"
        )
        names = [name for name in names if "Fashion" not in name]
    wanted, facts = courses(names, found.seeds, 4 if found.quick else 0), machine()
    cases = figures(wanted, measure_all([course for group in wanted.values() for course in group], found.jobs))
    for case, methods in cases.items():
        print(f"\n{case}\n{table(methods)}")
    if found.quick:
        return 0
    result = {
        "measured": previous("refresh", "measured") | dict.fromkeys(cases, facts),
        "cases": previous("refresh", "cases") | cases,
    }
    write_results("refresh", result, page(result), plot(result["cases"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
