"""Every cell by name, in the order in which they are measured: the accuracy tables by seed, then bytes, arms, institutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lib.paper.arms import ARMS, Arm, Point
from lib.paper.cells import Cell, Flat
from lib.paper.institutions import SEEDS, institution_cells
from lib.paper.methods import METHODS, ORDER, timed_as, tuned_as
from lib.paper.workloads import LARGE, PARTITIONS, TUNING_SEED, WORKLOADS, Workload

UNTESTED = {"data.test_limit": 50}
"""Of cells that keep nothing of the test split: it need not be large. Training samples are the same."""
FEW_STEPS = 1
"""Steps a round of the cells that only count bytes: as many values are sent however long an institution trains."""
TIMED_ROUNDS = 4
"""Rounds of the cells that only take time; their median counts."""
_TINY = {"training.learning_rate": 1e-5}  # a round takes as long at any rate


def accuracy(workload: str, partition: str, method: str, seed: int) -> Cell:
    """The cell of a table: `WORKLOAD/PARTITION/METHOD/seed-N`."""
    settings = {"seed": seed, **PARTITIONS[partition]}
    name, at = f"{workload}/{partition}/{method}/seed-{seed}", WORKLOADS[workload]
    made = _federation(name, at, method, settings, tuned=(workload, tuned_as(method)))
    return replace(made, drawn=(partition, seed) == (at.partitions[0], at.seeds[0]))


def tuning(workload: str, method: str, rate: float, seed: int = TUNING_SEED) -> Cell:
    """One rate of a grid: `tune/WORKLOAD/METHOD/rate-R`, on the workload's first partition and a seed of its own.

    Further seeds have `/seed-N` behind it.
    """
    at = WORKLOADS[workload]
    settings = {"seed": seed, **PARTITIONS[at.partitions[0]], **UNTESTED}
    name = f"tune/{workload}/{method}/rate-{rate:g}" + (f"/seed-{seed}" if seed != TUNING_SEED else "")
    made = _federation(name, at, method, settings, tunes=True)
    return replace(made, settings={**made.settings, **made.at(rate)})


def counted(workload: str, method: str) -> Cell:
    """A score round and two update rounds of one step each, for their bytes: `bytes/WORKLOAD/METHOD`."""
    settings = {
        "seed": TUNING_SEED,
        "federation.rounds": 2,
        "training.steps": FEW_STEPS,
        **_TINY,
        **UNTESTED,
    }
    return _federation(f"bytes/{workload}/{method}", WORKLOADS[workload], method, settings, tunes=True)


def timed(method: str) -> Cell:
    """Some rounds of the large workload, alone on the machine, for their seconds: `timed/WORKLOAD/METHOD`."""
    settings = {"seed": TUNING_SEED, "federation.rounds": TIMED_ROUNDS, **_TINY, **UNTESTED}
    name, at = f"timed/{LARGE}/{timed_as(method)}", WORKLOADS[LARGE]
    return replace(_federation(name, at, timed_as(method), settings, tunes=True), alone=True)


def arm(arm_name: str, point: Point, seed: int) -> Cell:
    """One setting of an arm: `arms/ARM/POINT/seed-N`."""
    at: Arm = ARMS[arm_name]
    name = f"arms/{arm_name}/{point.label}/seed-{seed}"
    settings = {"name": "arm", "seed": seed, **at.settings, **point.settings}
    tuned = (at.workload, point.tuned_as) if point.tuned_as else None
    needs = WORKLOADS[at.workload].needs if at.workload else ""
    rated = METHODS[point.tuned_as].rated if point.tuned_as else "tables"
    return Cell(
        name, at.experiment, settings, tuned, traced=at.traced, decimals=point.decimals, rated=rated, needs=needs
    )


def _federation(
    name: str, at: Workload, method: str, settings: Flat, *, tuned: tuple[str, str] | None = None, tunes: bool = False
) -> Cell:
    """A workload's file by a method."""
    chosen = METHODS[method]
    common = {"name": at.experiment, **at.settings, **settings, **chosen.settings}
    if chosen.training and at.mapped:
        common["encryption.sensitivity"] = at.mapped
    frozen = None if chosen.lora is None else (*at.frozen, *chosen.lora)
    return Cell(
        name,
        at.experiment,
        common,
        tuned,
        lora=frozen,
        tunes=tunes,
        in_process=chosen.in_process,
        rated=chosen.rated,
        needs=at.needs,
    )


def table(seed_at: int) -> Iterator[Cell]:
    """The accuracy cells of the workloads' `seed_at`-th seed."""
    for group in (ORDER[:2], ORDER[2:]):
        for name, workload in WORKLOADS.items():
            for partition in workload.partitions:
                if seed_at < len(workload.seeds):
                    for method in (method for method in workload.methods if method in group):
                        yield accuracy(name, partition, method, workload.seeds[seed_at])


def every() -> Iterator[Cell]:
    """All cells whose settings are known beforehand: what tuning adds beyond a grid's end is not among them."""
    yield from table(0)
    for name, arm_ in ARMS.items():
        for point in arm_.points:
            yield arm(name, point, arm_.seeds[0])
    yield from institution_cells(0)
    for seed_at in range(1, max(len(w.seeds) for w in WORKLOADS.values())):
        yield from table(seed_at)
    for name, workload in WORKLOADS.items():
        for method in workload.counted:
            yield counted(name, method)
    for method in METHODS:
        if method in (*WORKLOADS[LARGE].methods, *WORKLOADS[LARGE].counted) and timed_as(method) == method:
            yield timed(method)
    for seed_at in range(1, max(len(one.seeds) for one in ARMS.values())):
        for name, arm_ in ARMS.items():
            if seed_at < len(arm_.seeds):
                for point in arm_.points:
                    yield arm(name, point, arm_.seeds[seed_at])
        if seed_at < len(SEEDS):
            yield from institution_cells(seed_at)
    yield from _further()
    yield from _grids()


def _further() -> Iterator[Cell]:
    """Further seeds of what goals compare, dictpfl and plaintext, seed by seed."""
    for seed_at in range(max(len(one.further) for one in WORKLOADS.values())):
        for name, workload in WORKLOADS.items():
            for partition in workload.partitions:
                for method in ORDER[:2] if seed_at < len(workload.further) else ():
                    yield accuracy(name, partition, method, workload.further[seed_at])


def _grids() -> Iterator[Cell]:
    """Rates to try first, of each workload's methods and of what its arms tune besides."""
    for name, workload in WORKLOADS.items():
        of_arms = (p.tuned_as for one in ARMS.values() if one.workload == name for p in one.points if p.tuned_as)
        for method in dict.fromkeys(map(tuned_as, (*workload.methods, *of_arms))):
            for rate in workload.grid(method):
                for seed in workload.tuning_seeds:
                    yield tuning(name, method, rate, seed)


def named(name: str) -> Cell:
    """The cell of this name, tuning cells beyond a grid's end included.

    Raises:
        KeyError: there is none.
    """
    if name.startswith("tune/"):
        _, workload, method, rate, *seed = name.split("/")
        chosen = int(seed[0].removeprefix("seed-")) if seed else TUNING_SEED
        return tuning(workload, method, float(rate.removeprefix("rate-")), chosen)
    return {cell.name: cell for cell in every()}[name]
