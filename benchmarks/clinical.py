"""Hospitals: heart disease (four centres) and TCGA-BRCA (six regions) beside FLamby's published figures, encrypted.

    python benchmarks/clinical.py                  # half an hour of one idle core; goes on where it was stopped
    python benchmarks/clinical.py --only heart     # one of heart, tcga, heart_mlp, tcga_transformer; writes no results
    python benchmarks/clinical.py --quick          # one seed, no tuning: does it run? writes no results

Linear models as FLamby has them, its splits, rounds, steps and metrics, seeds 42 to 46; every federation is encrypted and
complete, as `dictpfl simulate` runs it. Rates: FLamby's own, and those chosen here on validation rows by a plain twin
(lib/clinical/linear.py). Pooled and local rows are trained by that twin, in clear. The networks' rates are chosen by federations.
Needs data/ (python experiments/fetch.py --only heart,tcga). Exits with 1 if a requirement is not met.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lib.clinical import page, tuning
from lib.clinical.cells import FULL, GRIDS, LINEAR, NETWORKS, OURS, TUNING_SEEDS, linear, network
from lib.clinical.linear import Floats, Rows, alone, federated, figure, torch_start
from lib.clinical.published import LOCAL, POOLED, POOLED_ALIKE, SEEDS, STEPS, Rates
from lib.clinical.tables import Table
from lib.federations import CELLS, measure_all
from lib.machine import ROOT, Requirement, conclude, count_of, machine, write_results

_EXTENSIONS = 3
THEIRS, CHOSEN = "FLamby's rates", "chosen"
Results = dict[str, Any]


def linear_rows(name: str, seeds: Sequence[int], jobs: int, *, quick: bool) -> Results:
    """Everything of one linear workload."""
    table = Table.load(name)
    picked = {} if quick else {method: _kept(f"{name}-{method}", table, method) for method in tuning.METHODS}
    rates = {(method, THEIRS): one for method, one in table.published.rates.items() if method != "FedProx"}
    rates |= {(method, CHOSEN): _rates(found) for method, found in picked.items()}
    keys = [(key, seed) for key in rates for seed in seeds]
    done = measure_all([linear(name, rates[key], seed) for key, seed in keys], jobs)
    runs: dict[str, list[Results]] = {}
    for ((method, which), _), run in zip(keys, done, strict=True):
        runs.setdefault(f"{method}, {which}", []).append(run)
    return {"runs": runs, "rates": {f"{m}, {w}": vars(r) for (m, w), r in rates.items()}, "tuning": picked, "held": tuning.held(table),
            "clear": _clear(table, rates, picked, seeds)}  # fmt: skip


def _clear(table: Table, rates: Mapping[tuple[str, str], Rates], picked: Results, seeds: Sequence[int]) -> Results:
    """What the plain twin reaches: the same rates, the other criterion's, FLamby's on its own features, pooled and local."""
    given = Table.load(table.name, options={**_options(table.name), "scale": {}}) if table.name == "tcga" else table
    found = {f"{m}, {which}": _twin(table, one, seeds) for (m, which), one in rates.items()}
    found |= {f"{m}, as FLamby": _twin(given, one, seeds, their_start=True) for m, one in table.published.rates.items()}
    found |= {f"{m}, by centres": _twin(table, _rates(one["by_centres"]), seeds) for m, one in picked.items()}
    pooled = Table.load(table.name, path="data/heart_pooled.csv") if table.name == "heart" else given
    together = [_joined(list(pooled.train.values()))]
    # FLamby standardises what it pools by all rows, and tests on each centre's own standard.
    found[POOLED] = _alone(given, together, seeds)
    if pooled is not given:
        found[POOLED_ALIKE] = _alone(pooled, together, seeds)
    singles = [_alone(given, [rows], seeds) for rows in given.train.values()]
    best = max(singles, key=lambda one: float(np.mean(one["by_seed"])))
    centre = list(given.train)[singles.index(best)]
    return found | {LOCAL: best | {"centre": centre}}


def _options(name: str) -> dict[str, Any]:
    from dictpfl.common.config import FederationConfig

    return dict(FederationConfig.load(ROOT / "experiments" / f"{name}.toml").data.options)


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows(np.concatenate([p.features for p in parts]), np.concatenate([p.labels for p in parts]))


def _twin(table: Table, rates: Rates, seeds: Sequence[int], *, their_start: bool = False) -> Results:
    centres, published = list(table.train.values()), table.published
    features = centres[0].features.shape[1]
    weights = [federated(table.kind, centres, [rates], rounds=published.rounds, steps=STEPS, batch=published.batch,
                         seed=seed, first_weights=torch_start(features, seed) if their_start else None)
               for seed in seeds]  # fmt: skip
    return _tested(table, weights)


def _alone(table: Table, rows: Sequence[Rows], seeds: Sequence[int]) -> Results:
    published = table.published
    return _tested(table, [alone(table.kind, rows[0], rate=published.alone_rate, epochs=published.epochs,
                                 batch=published.batch, seed=seed) for seed in seeds])  # fmt: skip


def _tested(table: Table, weights: Sequence[Floats]) -> Results:
    each = np.array([[100 * figure(table.kind, one, rows)[0] for rows in table.test.values()] for one in weights])
    return {
        "by_seed": each.mean(axis=1).tolist(),
        "by_group": dict(zip(table.test, each.mean(axis=0).tolist(), strict=True)),
    }


def _rates(found: Mapping[str, Any]) -> Rates:
    return Rates(found["rule"], found["rate"], found["server"], found["proximal"])


def _kept(label: str, table: Table, method: str) -> Results:
    """Chosen rates, read from a file of their own where they were chosen before."""
    data = b"".join(np.ascontiguousarray(p).tobytes() for r in table.train.values() for p in (r.features, r.labels))
    digest = hashlib.sha256(data + tuning.described(method).encode()).hexdigest()[:16]
    path = CELLS / f"clinical-rates-{label}-{digest}.json"
    if not path.exists():
        CELLS.mkdir(exist_ok=True)
        found = tuning.chosen(table, method)
        print(f"{label}: rate {found['rate']:g}, server {found['server']:g}", file=sys.stderr, flush=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    kept: Results = json.loads(path.read_bytes())
    return kept


def network_rows(name: str, seeds: Sequence[int], jobs: int, *, quick: bool) -> Results:
    """Everything of one network: rates by validation, then all seeds."""
    picked = {method: _chosen_rate(name, method, jobs, quick=quick) for method in (FULL, OURS)}
    keys = [(method, seed) for method in (FULL, OURS) for seed in seeds]
    done = measure_all([network(name, method, picked[method]["rate"], seed) for method, seed in keys], jobs)
    runs: dict[str, list[Results]] = {}
    for (method, _), run in zip(keys, done, strict=True):
        runs.setdefault(method, []).append(run)
    return {"runs": runs, "tuning": picked}


def _chosen_rate(name: str, method: str, jobs: int, *, quick: bool) -> Results:
    """By mean validation figure over the tuning seeds; the grid is extended beyond an end at which the best stands."""
    grid = sorted(GRIDS[name, method])
    if quick:
        return {"rate": grid[len(grid) // 2], "tried": {}, "inside": False}
    tried: dict[float, float] = {}
    for _ in range(_EXTENSIONS + 1):
        wanted = [(rate, seed) for rate in grid if rate not in tried for seed in TUNING_SEEDS[name]]
        found = measure_all([network(name, method, rate, seed, tunes=True) for rate, seed in wanted], jobs)
        for rate in {rate for rate, _ in wanted}:
            tried[rate] = float(
                np.mean([f["validation"] for (r, _), f in zip(wanted, found, strict=True) if r == rate])
            )
        best = max(tried, key=lambda rate: (round(tried[rate], 6), -rate))
        if best not in (grid[0], grid[-1]):
            break
        grid = [best / 2, *grid] if best == grid[0] else [*grid, 2 * best]
    return {
        "rate": best,
        "tried": {f"{r:g}": tried[r] for r in sorted(tried)},
        "inside": min(tried) < best < max(tried),
    }


def requirements(found: Mapping[str, Results]) -> list[Requirement]:
    """What issue 14 asks of these runs."""
    wanted = {"heart": (68.5, 73.0, "%", "accuracy"), "tcga": (73.2, 80.0, "x 100", "concordance")}
    needed = []
    for name, (averaged, ruled, unit, metric) in wanted.items():
        means = {label: page.mean_of(each)[0] for label, each in found[name]["runs"].items()}
        for label, bound in ((f"FedAvg, {CHOSEN}", averaged), (f"FedYogi, {THEIRS}", ruled)):
            promise = f"{name}, encrypted, {label}: mean {metric} of centres"
            needed.append(Requirement(promise, "at least", bound, means[label], unit))
    return needed


def main() -> int:
    """Measure, print, write; 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=count_of, default=1, help="processes; each trains on one thread")
    parser.add_argument("--only", choices=(*LINEAR, *NETWORKS), help="one workload; writes no results")
    parser.add_argument("--without", default="", help="networks to leave out, by commas; the page says so")
    parser.add_argument("--quick", action="store_true", help="one seed, no tuning; writes no results")
    arguments = parser.parse_args()
    if missing := [name for name in LINEAR if not (ROOT / "data" / f"{name}.csv").exists()]:
        print(f"data/{missing[0]}.csv is missing: run python experiments/fetch.py --only heart,tcga", file=sys.stderr)
        return 2
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    found: dict[str, Results] = {}
    left_out = [name for name in arguments.without.split(",") if name]
    if unknown := sorted(set(left_out) - set(NETWORKS)):
        parser.error(f"--without {unknown[0]}: expected of {', '.join(NETWORKS)}")
    for name in (arguments.only,) if arguments.only else (*LINEAR, *NETWORKS):
        if name in left_out:
            continue
        rows = linear_rows if name in LINEAR else network_rows
        found[name] = rows(name, seeds, arguments.jobs, quick=arguments.quick)
        print(page.table(name, found[name]), flush=True)
    if arguments.quick or arguments.only:
        return 0
    needed = requirements(found)
    report = {"machine": machine(), "workloads": found, "requirements": [r.to_json() for r in needed]}
    write_results("clinical", report, page.written(report, needed), page.plot(found))
    return conclude(needed)


if __name__ == "__main__":
    sys.exit(main())
