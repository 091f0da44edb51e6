"""Accuracy and traffic of dictpfl beside plaintext full fine-tuning, the head alone, FedHE-TopK and LoRA.

    python benchmarks/accuracy.py                              # digits by an MLP: under eight minutes on two cores
    python benchmarks/accuracy.py --full                       # everything whose data are here: hours
    python benchmarks/accuracy.py --workloads digits-vit --methods dictpfl,lora-both --seeds 1
    python benchmarks/accuracy.py --quick                      # one seed, no extended grids; writes nothing

Every method runs as a federation of this project (benchmarks/lib/workloads.py says with what settings); all but plaintext are
encrypted under CKKS. Each method's learning rate is the best of a grid by validation accuracy, as institutions read it from
the encrypted ledger, on seeds of its own; then other seeds run with that rate, and their test accuracy is the mean of
the last three rounds. Each federation is a cell (benchmarks/lib/federations.py): what was interrupted goes on where it stopped.
Results go to `benchmarks/results/accuracy.{json,md,svg}`; what is not measured anew stays there with its own date. MiniLM
on 20 Newsgroups is benchmarks/newsgroups.py, the paper's ablations are benchmarks/ablations.py. Exit code 1 if a requirement is
not met.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lib.accuracy_page import draw, page
from lib.federations import mean_and_spread, measure_all
from lib.machine import RESULTS, ROOT, Requirement, conclude, count_of, seed_list, write_results
from lib.tuning import SEEDS as TUNING_SEEDS
from lib.tuning import Tuning, best_rate, tune
from lib.workloads import METHODS, SMALL, WORKLOADS

NAME = "accuracy"


def measured(
    names: Sequence[str], methods: Sequence[str], seeds: Sequence[int], jobs: int, *, quick: bool
) -> dict[str, Any]:
    """By workload and method: accuracy, spread, traffic, the chosen rate and how it was chosen."""
    keys = [(name, method) for name in names for method in methods if method in WORKLOADS[name].methods]
    grids = tune(keys, jobs, quick=quick)
    wanted = [(key, seed) for key in keys for seed in seeds]
    cells = [
        WORKLOADS[name].cell(name, method, best_rate(grids[name, method]), seed) for (name, method), seed in wanted
    ]
    done = dict(zip(wanted, measure_all(cells, jobs), strict=True))
    found: dict[str, Any] = {}
    for key in keys:
        name, method = key
        runs = {str(seed): done[key, seed] for seed in seeds}
        found.setdefault(name, {})[method] = _figures(runs, grids[key]) | {
            "settings": dict(WORKLOADS[name].cell(name, method, best_rate(grids[key]), seeds[0]).settings)
        }
    return found


def _figures(runs: Mapping[str, Mapping[str, Any]], grid: Tuning) -> dict[str, Any]:
    each = list(runs.values())
    accuracy, spread = mean_and_spread([run["accuracy"] for run in each])
    return {
        "rate": best_rate(grid),
        "accuracy": accuracy,
        "spread": spread,
        "share": mean_and_spread([run["share"] for run in each])[0],
        "bytes": mean_and_spread([sum(run["bytes"].values()) for run in each])[0],
        "seeds": runs,
        "tuning": {f"{rate:g}": [f["validation"] for f in grid[rate]] for rate in sorted(grid)},
        "measured": each[-1]["machine"],
    }


def requirements(result: Mapping[str, Any]) -> list[Requirement]:
    """Promises of all workloads that have what they compare."""
    found = []
    for name, workload in result.items():
        accuracy, share = ({m: row[key] for m, row in workload["methods"].items()} for key in ("accuracy", "share"))
        for promise in WORKLOADS[name].promises:
            try:
                found.append(promise.judged(name, accuracy, share))
            except KeyError:  # compares with a method that was not measured
                continue
    return found


def merged(earlier: Mapping[str, Any], fresh: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Earlier results with what was measured anew in their place, in the order of `WORKLOADS` and `METHODS`."""
    result: dict[str, Any] = {}
    for name, workload in WORKLOADS.items():
        rows = {**earlier.get(name, {}).get("methods", {}), **fresh.get(name, {})}
        if rows:
            result[name] = {"title": workload.title, "methods": {m: rows[m] for m in METHODS if m in rows}}
    return result


def chosen(given: argparse.Namespace) -> list[str]:
    """Names of the workloads to measure; those whose data are missing are said and left out."""
    names = given.workloads.split(",") if given.workloads else list(WORKLOADS) if given.full else list(SMALL)
    for name in [name for name in names if WORKLOADS[name].missing(ROOT)]:
        print(f"{name}: {WORKLOADS[name].missing(ROOT)}", file=sys.stderr)
        names.remove(name)
    return names


def main() -> int:
    """Measure, print, write; 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all workloads whose data are here")
    parser.add_argument("--workloads", default="", help=f"of {', '.join(WORKLOADS)}; separated by commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--seeds", type=seed_list, default="1,2,3", help="seeds that are reported, not those that tune")
    parser.add_argument("--jobs", type=count_of, default=2, help="processes; each trains on one thread")
    parser.add_argument("--quick", action="store_true", help="one seed, no extended grids; writes nothing")
    parser.add_argument(
        "--page", action="store_true", help="only write page and plot again, from the results that are there"
    )
    given = parser.parse_args()
    methods, seeds = given.methods.split(","), given.seeds[: 1 if given.quick else None]
    unknown = [*({*given.workloads.split(",")} - {*WORKLOADS, ""}), *({*methods} - {*METHODS})]
    tuning = {*TUNING_SEEDS, *(seed for w in WORKLOADS.values() for seed in w.further)} & {*seeds}
    if unknown:
        known = f"workloads {', '.join(WORKLOADS)}; methods {', '.join(METHODS)}"
        parser.error(f"unknown: {', '.join(unknown)}; known: {known}")
    if tuning:
        parser.error(f"seeds {sorted(tuning)} choose the rates")
    fresh = {} if given.page else measured(chosen(given), methods, seeds, given.jobs, quick=given.quick)
    path = RESULTS / f"{NAME}.json"
    earlier = json.loads(path.read_bytes())["workloads"] if path.exists() and not given.quick else {}
    result = merged(earlier, fresh)
    needed = requirements(result)
    text = page(result, needed)
    if given.quick:
        print(text)
        return 0
    report = {"workloads": result, "requirements": [r.to_json() for r in needed]}
    write_results(NAME, report, text, draw(result))
    print(text)
    return conclude(needed)


if __name__ == "__main__":
    sys.exit(main())
