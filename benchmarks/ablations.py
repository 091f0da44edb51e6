"""The paper's ablations on digits: one setting varied at a time, beside the paper's own figures.

    python benchmarks/ablations.py --seeds 1,2,3           # up to 20 institutions: half an hour of one core; without --seeds one seed, ten minutes
    python benchmarks/ablations.py --full                  # three seeds, up to 200 institutions
    python benchmarks/ablations.py --only rank,tau --seeds 1,2

The files are experiments/ablation_*.toml: vit_tiny on digits, W0 pretrained on classes 0-4 of a public split, 20 rounds of 2
epochs, encrypted. Where a setting is the paper's default the federations are the same, and run once. The paper's figures are of
ViT-B/16 on Diabetic Retinopathy: what can be compared is which way accuracy and traffic move, not where they stand. Each
federation is a cell (benchmarks/lib/federations.py). Results go to `benchmarks/results/ablations.{json,md,svg}`; what is not
measured anew stays there with its own date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib.ablations_page import draw, page
from lib.federations import Cell, mean_and_spread, measure_all
from lib.machine import RESULTS, count_of, seed_list, write_results

NAME = "ablations"
MANY = 20
"""Institutions beyond which only `--full` goes."""


@dataclass(frozen=True)
class Point:
    """One setting: its changes to the experiment, and what the paper reports for it.

    `against`: label of the point that it is compared with; empty: the ablation's default.
    """

    label: str
    changes: Mapping[str, Any]
    accuracy: float | None = None
    gigabytes: float | None = None
    against: str = ""


@dataclass(frozen=True)
class Ablation:
    """One setting varied.

    Attributes:
        title: with the symbol that the paper uses. `experiment`: file of experiments/.
        points: in the order of the plot. `default`: label of the point that others are compared with; empty: each point says.
        source: the paper's table or figure. `reading`: what to make of it; no figures, those are in the table.
    """

    title: str
    experiment: str
    points: Sequence[Point]
    default: str
    source: str
    reading: str


def _points(key: str, rows: Sequence[tuple[Any, float | None, float | None]]) -> tuple[Point, ...]:
    return tuple(Point(f"{value:g}", {key: value}, accuracy, gigabytes) for value, accuracy, gigabytes in rows)


def _accumulation() -> tuple[Point, ...]:
    paper = {"0.3": (79.62, 74.26), "0.6": (80.28, 76.13), "0.9": (82.06, 80.45)}
    found = []
    for alpha, (kept, dropped) in paper.items():
        skew, base = {"data.alpha": float(alpha)}, f"{alpha}, accumulate"
        found += [
            Point(base, {**skew, "pruning.residual_decay": 1.0}, kept, against=base),
            Point(f"{alpha}, damped", skew, against=base),
            Point(f"{alpha}, discard", {**skew, "pruning.pruned": "discard"}, dropped, against=base),
            Point(f"{alpha}, freeze", {**skew, "pruning.pruned": "freeze"}, against=base),
        ]
    return tuple(found)


ABLATIONS: Mapping[str, Ablation] = {
    "rank": Ablation(
        "rank r of the dictionaries", "ablation_rank",
        _points("decomposition.rank", ((2, 74.26, 0.046), (4, 81.99, 0.088), (8, 82.67, 0.160), (16, 82.71, 0.332))),
        "4", "table 1", "The order is that of the paper, its steps are smaller here and hardly larger than the seeds' spread.",
    ),
    "s": Ablation(
        "share s of the sent coordinates that counts as inactive", "ablation_s",
        _points("pruning.s", ((0.2, None, None), (0.5, None, None), (0.7, None, None), (0.9, None, None))),
        "0.7", "figure 9, which has no figures to read off: s = 0.7 with reactivation keeps the accuracy of s = 0.2", "What 0.7 costs against 0.2 is not told from chance, as in the paper.",
    ),
    "tau": Ablation(
        "inactive rounds tau before pruning", "ablation_tau",
        _points("pruning.tau", ((1, 80.55, 0.001), (3, 82.29, 0.003), (5, 82.67, 0.160), (10, 82.77, 0.474))),
        "3", "table 2", "From three quiet rounds on little is gained, as in the paper.",
    ),
    "beta": Ablation(
        "factor beta on the reactivation probability", "ablation_beta",
        _points("pruning.beta", ((0.2, 82.29, 0.003), (0.5, 82.37, 0.007), (0.8, 82.55, 0.031))),
        "0.5", "table 4", "Neither here nor in the paper is the effect larger than chance.",
    ),
    "alpha": Ablation(
        "skew alpha of labels between institutions", "ablation_alpha",
        (*_points("data.alpha", ((0.3, 79.62, None), (0.6, 80.28, None), (0.9, 82.06, None))),
         Point("iid", {"data.partition": "iid"}, 82.67)),
        "iid", "table 6", "Skew costs more here, likely since a thousand samples are divided: a draw can leave an institution without whole classes, and draws differ much.",
    ),
    "institutions": Ablation(
        "number of institutions that share the data", "ablation_institutions",
        _points("federation.participants", ((3, 82.67, None), (5, 82.64, None), (10, 81.94, None), (20, 81.82, None),
                                            (50, 80.42, None), (200, 80.56, None))),
        "3", "table 5", "This differs, likely because the same thousand samples are divided: each of twenty institutions has a few dozen, takes two or three steps a round, and twenty rounds are then too few. The paper divides a data set some thirty times as large.",
    ),
    "accumulation": Ablation(
        "what becomes of a pruned coordinate's change, by alpha", "ablation_accumulation",
        _accumulation(), "", "table 9",
        "Over these seeds discarding, plain and damped accumulation (the default here) are not told apart, unlike in the paper.",
    ),
}  # fmt: skip


def cell(ablation: Ablation, point: Point, seed: int) -> Cell:
    """One federation; equal settings of two ablations are one cell."""
    common = {"name": "ablation", "seed": seed, "training.threads": 1, "training.device": "cpu"}
    return Cell("ablation", {**common, **point.changes}, ablation.experiment)


def measured(names: Sequence[str], seeds: Sequence[int], most: int, jobs: int) -> dict[str, Any]:
    """By ablation and point: accuracy, spread and traffic of the seeds."""
    wanted = [
        (name, point, seed)
        for name in names
        for point in ABLATIONS[name].points
        for seed in seeds
        if point.changes.get("federation.participants", 0) <= most
    ]
    done = measure_all([cell(ABLATIONS[name], point, seed) for name, point, seed in wanted], jobs)
    found: dict[str, Any] = {}
    for (name, point, seed), run in zip(wanted, done, strict=True):
        found.setdefault(name, {}).setdefault(point.label, {})[str(seed)] = run
    return {name: {label: _figures(runs) for label, runs in rows.items()} for name, rows in found.items()}


def _figures(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    each = list(runs.values())
    accuracy, spread = mean_and_spread([run["accuracy"] for run in each])
    return {
        "accuracy": accuracy,
        "spread": spread,
        "share": mean_and_spread([run["share"] for run in each])[0],
        "megabytes": mean_and_spread([sum(run["bytes"].values()) / 1e6 for run in each])[0],
        "seeds": {
            seed: {key: run[key] for key in ("accuracy", "share", "bytes", "state_digest")}
            for seed, run in runs.items()
        },
        "measured": each[-1]["machine"],
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="three seeds, all numbers of institutions")
    parser.add_argument("--only", default=",".join(ABLATIONS), help="separated by commas")
    parser.add_argument("--seeds", type=seed_list, default="", help="separated by commas; 1, or 1,2,3 with --full")
    parser.add_argument("--jobs", type=count_of, default=2, help="processes; each trains on one thread")
    parser.add_argument(
        "--page", action="store_true", help="only write page and plot again, from the results that are there"
    )
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := sorted({*names} - {*ABLATIONS}):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(ABLATIONS)}")
    seeds = given.seeds or ([1, 2, 3] if given.full else [1])
    fresh = {} if given.page else measured(names, seeds, 10**6 if given.full else MANY, given.jobs)
    path = RESULTS / f"{NAME}.json"
    earlier = json.loads(path.read_bytes())["ablations"] if path.exists() else {}
    rows = {name: {**earlier.get(name, {}), **fresh.get(name, {})} for name in ABLATIONS}
    result = {
        name: {p.label: rows[name][p.label] for p in a.points if p.label in rows[name]} for name, a in ABLATIONS.items()
    }
    result = {name: found for name, found in result.items() if found}
    text = page(ABLATIONS, result)
    write_results(NAME, {"ablations": result}, text, draw(ABLATIONS, result))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
