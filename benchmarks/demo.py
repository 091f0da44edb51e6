"""Rates of the demo's methods: `[methods]` of experiments/digits.toml.

    python benchmarks/demo.py            # about half an hour of one core
    python benchmarks/demo.py --quick    # one seed, the grid as it is; writes nothing

Each method takes the rate with the best validation accuracy, mean of the last three rounds and of three seeds that the demo
does not use. A grid whose best stands at its end is extended there. The test split is not looked at.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from typing import Any

from dictpfl.common.config import FederationConfig
from lib.federations import Cell
from lib.machine import RESULTS, ROOT, count_of, machine, markdown_table, preamble
from lib.tuning import Tuning, best_rate, search

METHODS = ("plaintext", "fedhe-full", "dictpfl")
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
SEEDS = (100, 101, 102)
NAME = "demo"


def cell(method: str, rate: float, seed: int) -> Cell:
    """The demo's federation; unencrypted, which changes no figure."""
    settings = {
        "method": method, "seed": seed, "toy_insecure": True, "encryption.sealer": "identity",
        "training.learning_rate": rate, "training.threads": 1, "training.device": "cpu",
    }  # fmt: skip
    return Cell(f"demo-{method}", settings, experiment="digits", tunes=True)


def page(tried: Mapping[str, Tuning], facts: Mapping[str, Any]) -> str:
    """benchmarks/results/demo.md."""
    rates = sorted({rate for grid in tried.values() for rate in grid})
    rows = [
        [method, f"{_of_demo(method):g}", f"{best_rate(grid):g}", *(_mean(grid, rate) for rate in rates)]
        for method, grid in tried.items()
    ]
    return f"""# Rates of the demo

Validation accuracy in %, mean of the last three rounds and of the seeds {", ".join(map(str, SEEDS))}, by the Adam rate. The demo's seed is
another, and the test split is not looked at. dictpfl keeps the rate at which its digests are on record; between rates that stand
within a point of each other, seeds decide.

{markdown_table(["method", "the demo's", "best", *(f"{rate:g}" for rate in rates)], rows)}

{preamble(facts, "python benchmarks/demo.py")}
"""


def _of_demo(method: str) -> float:
    changes = {"method": method, "toy_insecure": True}
    return float(FederationConfig.load(ROOT / "experiments" / "digits.toml", changes).training.learning_rate)


def _mean(grid: Tuning, rate: float) -> str:
    return f"{statistics.fmean(one['validation'] for one in grid[rate]):.2f}" if rate in grid else ""


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description="rates of the demo's methods")
    parser.add_argument("--quick", action="store_true", help="one seed, the grid as it is; writes nothing")
    parser.add_argument("--jobs", type=count_of, default=1, help="processes, one thread each")
    asked = parser.parse_args()
    facts = machine()
    tried = search(dict.fromkeys(METHODS, RATES), cell, asked.jobs, seeds=SEEDS, quick=asked.quick)
    text = page(tried, facts)
    print(text)
    if asked.quick:
        return
    document = {
        method: {f"{rate:g}": [one["validation"] for one in found] for rate, found in sorted(grid.items())}
        for method, grid in tried.items()
    }
    figures = {
        "rates": {method: best_rate(grid) for method, grid in tried.items()},
        "validation": document,
        "machine": facts,
    }
    (RESULTS / f"{NAME}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{NAME}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
