"""Lua-LLM and its rivals at equal numbers of zeros, cell by cell: `python benchmarks/lua.py --fashion`, `--vit` or `--language`.

    python benchmarks/lua.py --fashion --jobs 2        # an MLP on Fashion-MNIST, keep 20 % and 10 %, 3 seeds
    python benchmarks/lua.py --vit --jobs 2            # the same of vit_tiny, no requirement beforehand
    python benchmarks/lua.py --language --jobs 2       # SmolLM2 (a 4-bit checkpoint) on tales, 60 and 70 %, 3 seeds: hours
    python benchmarks/lua.py --language --quick        # one sparsity, one seed, 30 steps; writes nothing
    python benchmarks/lua.py --fashion --list

Learning rates of the two arms that train, `lua` and `equal-steps`, are chosen on validation samples of a seed of their own; a grid whose best
rate lies at its edge is made wider. Every arm and seed is a cell, a line in benchmarks/results/lua.jsonl; one whose settings are
others now is measured anew, and whatever is interrupted loses the cells that were running. Equal steps and samples are asserted from
counters, equal zeros from the weights. Exit status 0 whatever the figures are; 1 if a number is missing or arms were not equal.
Results: `benchmarks/results/lua_{fashion,vit,language}.{json,md,svg}`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.training.task import load_task
from dictpfl.common.config import FederationConfig
from dictpfl.common.law.sparsity import kept_count
from dictpfl.deploy.simulation.partition import divide
from dictpfl.deploy.simulation.pretraining import pretrain
from lib.arms import Cells, Study, ahead
from lib.federations import CELLS
from lib.hybrid import stored
from lib.lua_page import WORKLOADS, document, draw, page
from lib.machine import count_of, write_results
from lib.sparse import ABOUT, ARMS, EQUAL, LEARNT, TRAINED, Learnt, Subject, figures
from lib.tuning import widened

SEEDS, TUNING = (1, 2, 3), 0
"""Seeds of the arms, and the one that rates are chosen on."""
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
_WIDER = 3
_NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "fashion": {},
    "vit": {
        "model.source": "vit_tiny",
        "model.options": {"dim": 64, "depth": 4, "patch": 4},
        "model.pretrain.learning_rate": 1e-3,
    },
}
"""Networks that read pictures: lua_fashion.toml's, and a vision transformer in its place."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cells that are missing, then write the page from what is there."""
    given = _parser().parse_args(arguments)
    name = "language" if given.language else "vit" if given.vit else "fashion"
    workload, quick = WORKLOADS[name], bool(given.quick)
    sparsities = workload.sparsities[:1] if quick else workload.sparsities
    seeds = SEEDS[:1] if quick else SEEDS
    if given.list:
        for p in sparsities:
            at = chosen(name, p, 0, quick=quick)
            if at is None:
                print(f"lua/{name}/{p:g}: rates are chosen first")
            else:
                print(study(name, p, at, seeds, quick=quick).listed())
        return 0
    found: dict[float, Cells] = {}
    rates: dict[float, Mapping[str, float]] = {}
    for p in sparsities:
        rates[p] = chosen(name, p, given.jobs, quick=quick) or {}
        asked = study(name, p, rates[p], seeds, quick=quick)
        wanting = list(dict.fromkeys(seed for arm, seed in asked.missing if arm in LEARNT))
        ahead(partial(thresholds, settings=asked.arms["lua"]), wanting, given.jobs)
        found[p] = asked.run(given.jobs)
        _require_equal(found[p])
    text = page(name, found, rates, f"python benchmarks/lua.py --{name}{' --quick' if quick else ''}")
    print(text)
    if not quick:
        write_results(f"lua_{name}", document(name, found, rates), text, draw(name, found))
    return 0


def study(name: str, p: float, rates: Mapping[str, float], seeds: Sequence[int], *, quick: bool) -> Study:
    """All arms at one sparsity."""
    shared = _shared(name, p, quick=quick)
    arms = {
        arm: shared | {"arm": arm, "rate": rates["lua" if arm in LEARNT else EQUAL] if arm in (*LEARNT, EQUAL) else 0.0}
        for arm in ARMS
    }
    unequal = {arm: "it does not train" for arm in ARMS if arm not in (*LEARNT, EQUAL)}
    return Study(f"lua/{'quick-' if quick else ''}{name}/{p:g}", measure, arms, seeds, unequal, kept=not quick)


def chosen(name: str, p: float, jobs: int, *, quick: bool) -> dict[str, float] | None:
    """Choose the learning rate of each arm that trains by validation samples; a workload may choose at its first sparsity for all.

    Args:
        name: of the workload. `p`: sparsity.
        jobs: processes at a time; 0: measure nothing.
        quick: no choice, the middle of the grid.

    Returns:
        A rate for each arm that trains; None: a cell is missing, and nothing was to be measured.
    """
    workload = WORKLOADS[name]
    at = p if workload.tunes_each else workload.sparsities[0]
    if quick:
        return dict.fromkeys(TRAINED, sorted(workload.rates)[len(workload.rates) // 2])
    grids = {arm: sorted(workload.rates) for arm in TRAINED}
    for _ in range(_WIDER + 1):
        asked = tuning(name, at, grids)
        if asked.missing and not jobs:
            return None
        cells = asked.run(jobs or 1)
        best = {arm: best_rate(cells, arm, grids[arm], higher=workload.higher) for arm in TRAINED}
        wider = {arm: widened(grids[arm], best[arm]) for arm in TRAINED}
        if wider == grids:
            return best
        grids = wider
    return best


def tuning(name: str, p: float, grids: Mapping[str, Sequence[float]]) -> Study:
    """Each arm that trains, at each rate of its grid."""
    shared = _shared(name, p, quick=False)
    arms = {f"{arm} {rate:g}": shared | {"arm": arm, "rate": rate} for arm, grid in grids.items() for rate in grid}
    return Study(f"lua/{name}/{p:g}/rates", measure_rate, arms, (TUNING,), kept=True)


def best_rate(cells: Cells, arm: str, grid: Sequence[float], *, higher: bool) -> float:
    """The rate of a grid with the best figure on validation samples; of equal ones the smallest."""
    values = {rate: float(cells.of(f"{arm} {rate:g}", "validation")[0]) for rate in grid}
    return max(grid, key=lambda rate: (values[rate] if higher else -values[rate], -rate))


def _shared(name: str, p: float, *, quick: bool) -> dict[str, Any]:
    workload = WORKLOADS[name]
    return {
        "workload": name,
        "sparsity": p,
        "steps": 30 if quick else workload.steps,
        "batch": workload.batch,
        "quick": quick,
    }


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure one arm on the subject of a seed: metric and loss on all that is held out, and its zeros, counted."""
    made_from = subject(arm["workload"], seed, arm["steps"], quick=arm["quick"])
    model, steps, samples = made_from.made(
        arm["arm"], arm["sparsity"], arm["rate"], partial(thresholds, seed, settings=arm)
    )
    gone = sum(int((w.matrix == 0).sum()) for w in covered(model).values())
    total = sum(w.size for w in covered(made_from.model).values())
    wanted = total - kept_count(total, arm["sparsity"])
    if arm["arm"] != "dense" and gone < wanted:
        raise RuntimeError(f"{arm['arm']} has {gone} zeros, expected {wanted} or, with zeros of the dense model, more")
    measured = {name: figures(model, held, made_from.task) for name, held in made_from.held.items()}
    return {"steps": steps, "samples": samples, "zeros": gone, "figures": measured}


def measure_rate(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure an arm that trains, at a rate, on validation samples."""
    made_from = subject(arm["workload"], seed, arm["steps"], quick=arm["quick"])

    def learnt() -> Learnt:
        return made_from.learnt(arm["sparsity"], arm["rate"])

    model, steps, samples = made_from.made(arm["arm"], arm["sparsity"], arm["rate"], learnt)
    reached = figures(model, made_from.validation, made_from.task)
    return {"steps": steps, "samples": samples, "validation": reached[WORKLOADS[arm["workload"]].figure]}


def thresholds(seed: int, settings: Mapping[str, Any]) -> Learnt:
    """Lua's thresholds of a seed: learnt once, then read, since five arms are made from them."""
    read = ("workload", "sparsity", "steps", "batch", "quick", "rate")
    asked = {key: settings[key] for key in read}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    file = CELLS / f"lua-{asked['workload']}-{asked['sparsity']:g}-{seed}-{digest}.npz"
    if not file.exists():
        found = subject(asked["workload"], seed, asked["steps"], quick=asked["quick"]).learnt(
            asked["sparsity"], asked["rate"]
        )
        CELLS.mkdir(exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.npz")
        np.savez(
            part, counted=np.array([found.steps, found.samples]), **{f"of {n}": t for n, t in found.values.items()}
        )
        part.replace(file)
    with np.load(file) as stored:
        steps, samples = (int(n) for n in stored["counted"])
        return Learnt({n[3:]: stored[n] for n in stored.files if n.startswith("of ")}, steps, samples)


@lru_cache(maxsize=1)
def subject(name: str, seed: int, steps: int, *, quick: bool) -> Subject:
    """The model and the samples of a seed; one core."""
    torch.set_num_threads(1)
    return (_language if name == "language" else _pictures)(name, seed, steps, quick=quick)


def _pictures(name: str, seed: int, steps: int, *, quick: bool) -> Subject:
    changes = {
        **_NETWORKS[name],
        "seed": seed,
        "data.public_share": 0.6,
        "data.partition": "iid",
        "data.limit": 3000 if quick else 12_000,
        "model.pretrain.epochs": 5 if quick else 20,
    }
    config = FederationConfig.load(EXPERIMENTS / "lua_fashion.toml", changes)
    dataset = load_dataset(config.data, seed)
    parts = divide(dataset, config.data, 3, seed)
    model = build_model(config.model, dataset.sample_shape, dataset.outputs, seed)

    def made() -> torch.nn.Module:
        pretrain(model, parts.public, config.model.pretrain, config.training, seed)
        return model

    digest = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
    model = stored(f"lua-{name}-dense-{seed}-{digest}", model, made)
    own = parts.institutions[0]
    return _made(name, model, own.train, own.validation, {"test": parts.test}, seed, steps, quick=quick)


def _language(name: str, seed: int, steps: int, *, quick: bool) -> Subject:
    config = FederationConfig.load(EXPERIMENTS / "lua_tales.toml")
    tales = load_dataset(config.data, seed)
    assert tales.splits is not None, "the tales say what each passage is for"
    own, validation, test = (
        tales.samples.take(np.flatnonzero(tales.splits == mark)) for mark in ("train", "validation", "test")
    )
    section = config.data.model_copy(
        update={"path": str(Path(config.data.path).with_name("excerpts.parquet")), "column": "", "partition": "iid"}
    )
    excerpts = load_dataset(section.model_copy(update={"limit": 0, "test_limit": 30}), seed).samples
    model = build_model(config.model, tales.sample_shape, tales.outputs, seed)
    held = {"test": test, "elsewhere": excerpts}
    if quick:
        held = {which: samples.take(np.arange(8)) for which, samples in held.items()}
    return _made(name, model, own, validation, held, seed, steps, quick=quick)


def _made(
    name: str, model: torch.nn.Module, own: Samples, validation: Samples, held: Mapping[str, Samples], seed: int, steps: int, *, quick: bool
) -> Subject:  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(own))
    calibration = own.take(np.sort(order[: 8 if quick else 64]))
    task = load_task("causal-lm" if name == "language" else "classification")
    return Subject(
        model.eval(), calibration, own, validation, held, task, steps, WORKLOADS[name].batch, seed
    )  # fmt: skip


def _require_equal(cells: Cells) -> None:
    """Refuse arms that had other numbers of zeros, but for zeros of the dense model and weights that SparseGPT moved to zero."""
    for seed in cells.study.seeds:
        counted = {arm: cells.found[arm, seed]["zeros"] for arm in ABOUT if arm != "dense"}
        dense, least = cells.found["dense", seed]["zeros"], min(counted.values())
        most = max(zeros for arm, zeros in counted.items() if "sparsegpt" not in arm)
        assert most - least <= dense, f"seed {seed}: unequal zeros: {counted}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--fashion", action="store_true", help="an MLP on Fashion-MNIST")
    which.add_argument("--vit", action="store_true", help="vit_tiny on Fashion-MNIST")
    which.add_argument("--language", action="store_true", help="SmolLM2 on tales")
    parser.add_argument("--quick", action="store_true", help="one sparsity, one seed, 30 steps; writes nothing")
    parser.add_argument("--jobs", type=count_of, default=1, help="processes at a time, one core each")
    parser.add_argument("--list", action="store_true", help="the cells, and whether they are there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
