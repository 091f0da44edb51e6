"""Thresholds that three libraries learn together, beside each library alone and all text in one place (Lua-LLM, experiments/lua_tales.toml).

    python benchmarks/lua_federated.py --jobs 2     # SmolLM2 on tales by kind: six arms, some 20 minutes of a core each; resumes cell by cell
    python benchmarks/lua_federated.py --list       # the cells, and whether they are there
    python benchmarks/lua_federated.py --quick      # a round of one step; writes nothing

The federation runs as the file says, under CKKS, and again with nothing encrypted: one state, one mask. Its three institutions take 90
steps each, 270 in all; every rival takes 270 on the text that it has, by the same rate and batches. Loss in nats a token, and perplexity,
on tales of all three kinds that nobody trained on. The federation's model is written packed at 70 % zeros too, and read back. Exit status 0
whatever the figures are; 1 if a number is missing. Every arm is a cell, a line in benchmarks/results/lua_federated.jsonl.
Results: `benchmarks/results/lua_federated.{json,md,svg}`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dictpfl.client.compress.sparse.lua import learn_thresholds, ranks_of
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.model.sparse.masks import Masks
from dictpfl.client.model.sparse.twin import ThresholdTwin
from dictpfl.client.model.sparse.weights import covered
from dictpfl.client.training.task import load_task
from dictpfl.client.training.workbench import Workbench
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.exports.finished import Finished
from dictpfl.deploy.exports.sparse import form_of, load_sparse, sizes, write_document, write_weights
from dictpfl.deploy.simulation.partition import Regrouping, divide
from lib.arms import Cells, Study, study_parser
from lib.machine import ROOT, Requirement, bars, markdown_table, panels, preamble, requirement_lines, write_results
from lib.simulated import UNPADDED
from lib.sparse import figures

EXPERIMENT = ROOT / "experiments" / "lua_tales.toml"
SEED = 1
SEALED, CLEAR, POOLED, DENSE = "federation, CKKS", "federation, in clear", "all text in one place", "dense"
ALONE = tuple(f"library {n + 1} alone" for n in range(3))
ARMS: Mapping[str, Mapping[str, Any]] = {
    DENSE: {"place": "dense"},
    SEALED: {"place": "federation", "set": {}},
    CLEAR: {"place": "federation", "set": {"encryption.sealer": "identity", "toy_insecure": True}},
    POOLED: {"place": "pooled"},
    **{name: {"place": n} for n, name in enumerate(ALONE)},
}
FEW: Mapping[str, Any] = {
    "federation.rounds": 1,
    "training.steps": 1,
    "data.limit": 60,
    "data.test_limit": 4,
    "sparsity.calibration": 2,
}
PACKED = 0.7
"""Share of zeros at which a packed folder is measured."""


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure one arm: loss of its sparse model on tales of all kinds, and what the federation sent."""
    torch.set_num_threads(1)
    chosen = {
        **UNPADDED,
        "seed": seed,
        "training.threads": 1,
        "training.device": "cpu",
        **arm["common"],
        **arm.get("set", {}),
    }
    config = FederationConfig.load(EXPERIMENT, chosen)
    return _federation(config) if arm["place"] == "federation" else _one_place(config, arm["place"])


def _federation(config: FederationConfig) -> dict[str, Any]:
    from dictpfl.deploy.simulation.simulate import simulate

    with tempfile.TemporaryDirectory(prefix="lua-") as name:
        folder = Path(name)
        run = simulate(config, folder / "run", engine="local", test_every=config.federation.rounds)
        finished = Finished.load(run.folder)
        bench = finished.bench()
        model, masks = finished.merged(bench), bench.masks_at(finished.state)
        assert masks is not None, "the file asks for thresholds"
        updates = [record for record in run.records if record.kind == "update"]
        found = {
            "steps": config.federation.participants * config.federation.rounds * config.training.steps,
            **figures(model, Samples.load(run.folder / "test.npz"), load_task(config.training.task)),
            "zeros": masks.total - masks.kept,
            "mask": masks.digest,
            "state": run.summary["state_digest"],
            "up": max(record.bytes_up for record in updates),
            "down": max(record.bytes_down for record in updates),
        }
        return found | _packed(finished, bench, folder / "packed")


def _packed(finished: Finished, bench: Workbench, folder: Path) -> dict[str, Any]:
    """Bytes of the federation's thresholds at 70 % zeros, packed, beside the dense model as float32; and whether they come back."""
    twin = bench.twin_at(finished.state, bench.local_state())
    assert isinstance(twin, ThresholdTwin), "the file asks for thresholds"
    twin.sparsity = PACKED
    model, masks = twin.merge(), twin.masks()
    folder.mkdir()
    write_weights(folder, model, covered(model), masks)
    write_document(folder, masks, form_of(finished), model, {})
    back = load_sparse(folder).state_dict()
    same = all(torch.equal(value, back[name]) for name, value in model.state_dict().items())
    found = sizes(folder, model)
    return {"packed": found["packed"], "dense": found["dense"], "comes back": same}


def _one_place(config: FederationConfig, place: str | int) -> dict[str, Any]:
    dataset = load_dataset(config.data, config.seed)
    division = divide(dataset, config.data, config.federation.participants, config.seed)
    model = build_model(config.model, dataset.sample_shape, dataset.outputs, config.seed).eval()
    task = load_task(config.training.task)
    if place == "dense":
        return {"steps": 0, **figures(model, division.test, task), "zeros": 0}
    only = None if place == "pooled" else int(place)
    own = Regrouping(config.federation.participants, only).of(division).institutions[0].train
    steps = config.federation.participants * config.federation.rounds * config.training.steps
    masks, taken = _learnt(model, own, config, steps)
    masks.put_on(covered(model))
    return {"steps": taken, **figures(model, division.test, task), "zeros": masks.total - masks.kept}


def _learnt(model: torch.nn.Module, own: Samples, config: FederationConfig, steps: int) -> tuple[Masks, int]:
    """Thresholds that are learnt on samples of one place, ranked by as many of them as an institution of the federation takes."""
    said, weights = config.sparsity, covered(model)
    order = np.random.default_rng(config.seed).permutation(len(own))
    calibration = own.take(np.sort(order[: said.calibration]))
    every = ranks_of(model, weights, calibration)
    found = learn_thresholds(
        model, own, load_task(config.training.task), said.target, weights=weights, steps=steps, rate=config.training.learning_rate,
        regularisation=said.regularisation, temperature=said.temperature, training=config.training, seed=config.seed, every=every,
    )  # fmt: skip
    return found.masks(), found.steps


def requirements(cells: Cells) -> list[Requirement]:
    """Judge what was asked beforehand (SPARSITY_TOKENS.md 2.5)."""
    by = {arm: cells.found[arm, SEED] for arm in cells.study.arms}
    sealed, best_alone = by[SEALED], min(float(by[arm]["loss"]) for arm in ALONE)
    same = sealed["state"] == by[CLEAR]["state"] and sealed["mask"] == by[CLEAR]["mask"]
    return [
        Requirement("one state and one mask with and without encryption", "at least", 1, int(same)),
        Requirement("bytes of thresholds up, a round and institution", "at most", 0.30, sealed["up"] / 1e6, "MB"),
        Requirement("the same down", "at most", 0.30, sealed["down"] / 1e6, "MB"),
        Requirement(
            "perplexity, of that of all text in one place", "at most", 1.15, _perplexity(sealed) / _perplexity(by[POOLED]), "times"
        ),
        Requirement("better than the best library alone", "at least", 0.0, best_alone - sealed["loss"], "nats"),
        Requirement("packed at 70 % zeros, smaller than float32", "at least", 2.8, sealed["dense"] / sealed["packed"], "times"),
        Requirement("and read back bit for bit", "at least", 1, int(sealed["comes back"])),
    ]  # fmt: skip


def _perplexity(found: Mapping[str, Any]) -> float:
    return float(np.exp(found["loss"]))


def page(cells: Cells) -> str:
    """The Markdown page."""
    rows = [
        [arm, f"{one['steps']:,}", f"{one['zeros']:,}", f"{one['loss']:.4f}", f"{_perplexity(one):.2f}"]
        for arm, one in ((arm, cells.found[arm, SEED]) for arm in cells.study.arms)
    ]
    sealed = cells.found[SEALED, SEED]
    return f"""# Lua-LLM in a federation: SmolLM2 on tales, three libraries

Steps are those of all institutions together. One seed. Measured on tales of all kinds, the same for every arm.

{markdown_table(["arm", "steps", "zeros", "loss", "perplexity"], rows)}

The federation's mask is `{sealed["mask"][:16]}`, its state `{sealed["state"][:16]}`. At {PACKED:.0%} zeros its model takes {sealed["packed"] / 1e6:.1f} MB packed,
{sealed["dense"] / 1e6:.1f} MB as float32.

{preamble(cells.measured(), "python benchmarks/lua_federated.py")}

## Requirements

{requirement_lines(requirements(cells))}

![perplexity of every arm](lua_federated.svg)
"""


def draw(cells: Cells) -> Figure:
    """Perplexity of every arm."""
    figure, (plot,) = panels("perplexity on tales of all kinds")
    bars(plot, {arm: [_perplexity(cells.found[arm, SEED])] for arm in cells.study.arms})
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what has no cell yet, and write the page unless it was a look."""
    asked = study_parser(__doc__, "a round of one step; writes nothing", cells=True).parse_args(arguments)
    common: Mapping[str, Any] = FEW if asked.quick else {}
    arms = {name: {**arm, "common": dict(common)} for name, arm in ARMS.items()}
    unequal = dict.fromkeys(arms, "institutions count for themselves")
    study = Study("lua_federated", measure, arms, (SEED,), unequal, kept=not asked.quick)
    if asked.list:
        print(study.listed())
        return 0
    cells = study.run(asked.jobs)
    text = page(cells)
    print(text)
    if not asked.quick:
        values = {"cells": {arm: one for (arm, _), one in cells.found.items()}, "machine": cells.measured(),
                  "requirements": [r.to_json() for r in requirements(cells)]}  # fmt: skip
        write_results("lua_federated", values, text, draw(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
