"""Gates in a federation beside the same samples in one place, cut and recovered (`narrow.py`)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from dictpfl.client.compress.cutting.axes import axes_of
from dictpfl.client.compress.cutting.cut import cut
from dictpfl.client.compress.narrow.federating import gated_axes, kept_units, left_open
from dictpfl.client.compress.narrow.phases import Narrowing, narrow
from dictpfl.client.compress.narrow.relearn import figure
from dictpfl.client.data.samples import Samples
from dictpfl.client.training.task import load_task
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.overrides import overrides
from lib.arms import Cells, claims_table, spread
from lib.machine import ROOT, Requirement, markdown_table, preamble
from lib.simulated import UNPADDED

TASK = "classification"
_LOOKED_AT = 3
FEDERATED_SEEDS = tuple(range(1, 11))
"""Not those by which the second federation's proximal term was chosen, 11 to 15."""
FEDERATED: Mapping[str, Mapping[str, Any]] = {
    "federated": {"place": "federated", "set": {}},
    "pooled": {"place": "pooled", "set": {}},
    "federated, evenly divided": {"place": "federated", "set": {"data.partition": "iid"}},
    "federated, three times the penalty": {"place": "federated", "set": {"narrow.penalty": 3e-2}},
}
"""The federation beside the same samples in one place; and what tells whether skew, or too small a penalty, is why it falls short."""
_GATED, _RECOVERED = (ROOT / "experiments" / f"narrow_digits{which}.toml" for which in ("", "_recovered"))


def federated(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Narrow by gates in a federation and recover in a second one, or take the same steps on the pooled samples from the same W0.

    Measured is the kept skill right after the cut, and recovered.
    """
    from dictpfl.deploy.exports.finished import Finished
    from dictpfl.deploy.simulation.simulate import simulate

    torch.set_num_threads(1)
    config = FederationConfig.load(_GATED, {**UNPADDED, "seed": seed, **arm["set"]})
    with tempfile.TemporaryDirectory(prefix="narrow-") as name:
        run = simulate(config, Path(name) / "run", engine="local")
        finished, test = Finished.load(run.folder), Samples.load(run.folder / "test.npz")
        homes = [run.folder / "institutions" / f"institution-{n:03d}" for n in range(config.federation.participants)]
        own = [Samples.load(home / "train.npz").of_classes(config.narrow.classes) for home in homes]
        updates = [record for record in run.records if record.kind == "update"]
        general = finished.bench().merged(finished.genesis.start())
        steps = config.federation.rounds * config.training.steps
        task = load_task(TASK)
        if arm["place"] == "pooled":
            pooled = Samples(np.concatenate([s.features for s in own]), np.concatenate([s.labels for s in own]))
            how = Narrowing(
                keep=config.narrow.keep,
                steps=steps,
                recover=steps,
                penalty=config.narrow.penalty,
                rate=config.narrow.rate,
                seed=seed,
            )
            done = narrow(general, axes_of(general), pooled, task, config.training, how)
            made, recovered = done.right_after, done.model
            counted = {"steps": done.steps, "samples": done.samples}
        else:
            whole = finished.merged()
            made = cut(whole, kept_units(finished.genesis, finished.state.values, gated_axes(whole, config.narrow)))
            # Of institutions, who keep their counts to themselves.
            counted = {"steps": 0, "samples": 0, "open": figure(whole, test, task)}
            save_file(made.state_dict(), Path(name) / "small.safetensors")
            same_data = {key: value for key, value in arm["set"].items() if key.startswith("data.")}
            further = {"model.weights": str(Path(name) / "small.safetensors"), "seed": seed, **same_data}
            again = simulate(FederationConfig.load(_RECOVERED, further), Path(name) / "again", engine="local")
            recovered = Finished.load(again.folder).merged()
        gates = sum(norms.size for norms in finished.genesis.gates.values())
        return {
            **counted,
            "general": figure(general, test, task),
            "even": figure(made, test, task),
            "recovered": figure(recovered, test, task),
            "gates": gates,
            "values": finished.genesis.layout.size,
            "bytes": fmean(record.bytes_up for record in updates),
            "state_digest": run.summary["state_digest"],
        }


def looked_at(settings: Sequence[str]) -> int:
    """Play the federation of gates with keys changed, three seeds, unencrypted; print the kept skill with all gates and cut."""
    from dictpfl.deploy.exports.finished import Finished
    from dictpfl.deploy.simulation.simulate import simulate

    torch.set_num_threads(1)
    for seed in FEDERATED_SEEDS[:_LOOKED_AT]:
        own = {"seed": seed, "encryption.sealer": "identity", "toy_insecure": True} | overrides(settings)
        config = FederationConfig.load(_GATED, own)
        with tempfile.TemporaryDirectory(prefix="narrow-") as name:
            simulate(config, Path(name) / "run", engine="local")
            finished, test = Finished.load(Path(name) / "run"), Samples.load(Path(name) / "run" / "test.npz")
            whole, task = finished.merged(), load_task(TASK)
            axes = gated_axes(whole, config.narrow)
            kept = kept_units(finished.genesis, finished.state.values, axes)
            taken = left_open(finished.genesis, finished.state.values, axes, kept)
            print(
                f"seed {seed}: with all gates {figure(whole, test, task):.1f} %, cut {figure(cut(whole, kept), test, task):.1f} %; "
                f"{taken:.0%} of what gates let through was cut",
                flush=True,
            )
    return 0


def federated_requirements(cells: Cells) -> list[Requirement]:
    """Judge the federation against the pooled samples."""
    return [
        Requirement(
            f"gates under CKKS: points below the pooled ones, {when}",
            "at most",
            1.5,
            -cells.claim(which, "federated", "pooled").interval.mean,
            "points",
        )
        for when, which in (("right after the cut", "even"), ("recovered", "recovered"))
    ]


def federated_text(cells: Cells) -> str:
    """Page's section of the federation."""
    one = cells.found["federated", cells.study.seeds[0]]
    rows = [
        [arm, *(mean(cells, arm, name) for name in ("general", "open", "even", "recovered"))]
        for arm in cells.study.arms
    ]
    shown = [cells.claim(figure_, arm, rival) for figure_, arm, rival in (
        ("even", "federated", "pooled"), ("recovered", "federated", "pooled"), ("even", "federated, evenly divided", "federated"),
        ("even", "federated, three times the penalty", "federated"),
    )]  # fmt: skip
    return f"""
## In a federation

Three institutions, Dirichlet 0.3, 20 rounds of 15 steps, CKKS (experiments/narrow_digits.toml): {one["gates"]} gates and the head's
{one["values"] - one["gates"]:,} values, {one["bytes"]:,.0f} bytes up a round and institution. Pooled: the same W0, as many steps, all even samples in
one place. Even digits in percent, with all gates before the cut, right after it to 48 neurons a layer, and recovered by as many steps: in a second
federation (experiments/narrow_digits_recovered.toml), or in one place; {len(cells.study.seeds)} seeds. The federation's proximal term was chosen on five other seeds.

{markdown_table(["", "general model", "with all gates", "narrowed", "recovered"], rows)}

{claims_table(shown)}

{preamble(cells.measured(), "python benchmarks/narrow.py")}
"""


def mean(cells: Cells, arm: str, name: str) -> str:
    """Mean and standard deviation of a figure over seeds; a dash where an arm has none."""
    if any(name not in cells.found[arm, seed] for seed in cells.study.seeds):
        return "-"
    values = cells.of(arm, name)
    return spread(values)
