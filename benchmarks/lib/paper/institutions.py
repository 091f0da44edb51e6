"""More institutions that share the same data, and the arms that tell why accuracy falls where it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lib.paper.cells import Cell
from lib.paper.methods import FULL, METHODS, OURS
from lib.paper.workloads import WORKLOADS

COUNTS = (3, 10, 50, 200)
SEEDS = (1, 2, 3)
WORKLOAD = "cifar10"
SAMPLES = 3000
"""Training and validation samples of all institutions together, whatever their number."""
ROUNDS = 8
"""Of an epoch each: 1,300 steps in all, four times what the tables take."""
_BATCH = 16

ARMS: Mapping[str, str] = {
    "dictpfl": "the same data, divided among so many",
    "plaintext": "the same by plaintext full fine-tuning: does it fall as well?",
    "few-samples": "three institutions, each with the samples that one of so many has: is it samples?",
    "few-steps": "three institutions that share all data, but take only the steps that one of so many takes: is it steps?",
}
"""The last two tell two reasons apart at a small cost: neither has more than three institutions."""


def settings(arm: str, count: int) -> dict[str, Any]:
    """Dotted changes to the workload's file."""
    each = SAMPLES // count
    common: dict[str, Any] = {"name": "institutions", "data.partition": "iid", "data.limit": SAMPLES,
                              "training.batch_size": _BATCH, "training.epochs": 1,
                              "training.steps": 0, "federation.rounds": ROUNDS}  # fmt: skip
    if arm in (OURS, FULL):
        return {**common, **METHODS[arm].settings, "federation.participants": count}
    few = {**common, **METHODS[OURS].settings, "federation.participants": COUNTS[0]}
    if arm == "few-samples":
        return {**few, "data.limit": each * COUNTS[0]}
    return {**few, "training.steps": steps(count)}


def steps(count: int) -> int:
    """Steps that one of so many institutions takes in a round: an epoch of what its validation split leaves."""
    return max(1, round(0.85 * (SAMPLES // count) / _BATCH))


def cell(arm: str, count: int, seed: int) -> Cell:
    """`institutions/N/ARM/seed-K`."""
    tuned = (WORKLOAD, FULL if arm == FULL else OURS)
    return Cell(
        f"institutions/{count}/{arm}/seed-{seed}", WORKLOADS[WORKLOAD].experiment, {"seed": seed, **settings(arm, count)},
        tuned, in_process=arm == FULL, rated=METHODS[FULL if arm == FULL else OURS].rated, needs=WORKLOADS[WORKLOAD].needs,
    )  # fmt: skip


def institution_cells(seed_at: int) -> Iterator[Cell]:
    """All of one seed; with three institutions the last two arms are the first one."""
    for count in COUNTS:
        for arm in ARMS:
            if count > COUNTS[0] or arm in (OURS, FULL):
                yield cell(arm, count, SEEDS[seed_at])
