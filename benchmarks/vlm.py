"""Does a small vision-language model learn to answer questions about pictures, and does it look at them?

    python benchmarks/vlm.py --full          # DINOv2-S and SmolLM2-135M on mosaics, 3 seeds, with and without pictures: an hour of two cores (--jobs 2)
    python benchmarks/vlm.py --full --list   # its cells, and which are there
    python benchmarks/vlm.py --quick         # a tiny random one, for a look; writes nothing

The encoder stays frozen; lookup tables of rank 8 on the decoder, projector, norms and head are trained, as a federation trains them. *Text only* sees
empty pictures: what it answers rightly follows from questions alone. Each arm and seed is a cell in benchmarks/results/vlm, so that what is broken off goes
on. A null exits 0. Results: `benchmarks/results/vlm.{json,md,svg}`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.model.twin import decompose
from dictpfl.client.training.calling import forward
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import train
from dictpfl.common.settings import Data, Model, Training
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import SAMPLES, STEPS, Cells, Study, claims_table, spread, study_parser
from lib.machine import ROOT, Requirement, markdown_table, panels, preamble, requirement_lines, threads, write_results

SEEN, BLIND, ASKED = "pictures", "text only", 20.0
ARMS: Mapping[str, Mapping[str, Any]] = {SEEN: {}, BLIND: {"blind": True}}
TRAINED_ON, MEASURED, BATCH, RANK = 2000, 300, 8, 8
SIDE = 2
"""Cells of a row: four digits, each of 4 x 4 of the encoder's patches at 112 pixels, read as 2 x 2 tokens."""
FULL: Mapping[str, Any] = {
    "model": {"image": [3, 112, 112], "vision": f"timm:{ROOT / 'data' / 'dinov2_s'}", "language": f"transformers:{ROOT / 'data' / 'smollm2'}", "image_tokens": 16},
    "data": {"side": SIDE, "scale": 7, "channels": 3, "questions": ["cell", "count"], "tokenizer": str(ROOT / "data" / "smollm2")},
    "steps": 400, "rate": 5e-4,
}  # fmt: skip
TINY: Mapping[str, Any] = {
    "model": {"image": [1, 16, 16], "width": 32, "layers": 3, "heads": 2},
    "data": {"side": SIDE}, "steps": 20, "rate": 3e-3,
}  # fmt: skip


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train one arm and count what it answers rightly, by kind of question."""
    torch.set_num_threads(threads())
    kind = TINY if arm["tiny"] else FULL
    dataset = load_dataset(Data(source="mosaic", options={**kind["data"], "count": TRAINED_ON + MEASURED}), seed)
    samples = dataset.samples
    model = build_model(Model(source="vlm", options=kind["model"]), samples.features.shape[1:], dataset.outputs, seed)
    if arm.get("blind"):
        features = samples.features.copy()
        features[:, : model.pixels] = 0.0  # type: ignore[misc]
        samples = Samples(features, samples.labels)
    twin = decompose(
        model, rank=RANK, dense=["projector.*"]
    )  # it begins at random: a table of its W0 would be one of noise
    training = Training(
        batch_size=BATCH, learning_rate=kind["rate"], steps=kind["steps"], optimizer="adamw", device="cpu"
    )
    told = train(twin, samples.take(np.arange(TRAINED_ON)), training, load_task("classification"), seed=seed)
    held, groups = samples.take(np.arange(TRAINED_ON, TRAINED_ON + MEASURED)), np.asarray(dataset.groups)[TRAINED_ON:]
    twin.module.eval()
    with torch.no_grad():
        parts = [forward(twin.module, torch.tensor(held.features[n : n + BATCH])) for n in range(0, MEASURED, BATCH)]
    right = torch.cat(parts).argmax(dim=1).numpy() == held.labels
    by_group = {f"right, {group}": 100 * float(right[groups == group].mean()) for group in sorted(set(groups.tolist()))}
    return {STEPS: told.steps, SAMPLES: told.samples_seen, "right": 100 * float(right.mean()), **by_group}


def requirements(cells: Cells) -> list[Requirement]:
    """The promise of the plan: twenty points above what questions alone tell."""
    lift = cells.claim("right", SEEN, BLIND).interval.mean
    return [Requirement("pictures above text only", "at least", ASKED, lift, "points")]


def page(cells: Cells) -> str:
    """benchmarks/results/vlm.md."""
    claims = [cells.claim("right", SEEN, BLIND)]
    figures = ["right", *sorted(key for key in cells.found[SEEN, cells.study.seeds[0]] if key.startswith("right, "))]
    rows = [[arm, *(_mean(cells, arm, f) for f in figures)] for arm in cells.study.arms]
    said = {
        "better": "The model answers more rightly with the pictures than without.", "worse": "With the pictures it answers worse than without.",
    }.get(claims[0].verdict, "That the model looks at the pictures was not shown.")  # fmt: skip
    return f"""# Questions about pictures

{said}

DINOv2-S (frozen) and SmolLM2-135M (a 4-bit checkpoint, widened) on mosaics of {SIDE} x {SIDE} digits, asked which digit a cell has and how many there are of one: {FULL["steps"]} steps of {BATCH}, {MEASURED} other questions, {len(cells.study.seeds)}
seeds; percent that is right, mean ± standard deviation.

{markdown_table(["arm", *figures], rows)}

{claims_table(claims)}

{preamble(cells.measured(), "python benchmarks/vlm.py --full")}

## Requirements

{requirement_lines(requirements(cells))}

![by arm](vlm.svg)
"""


def _mean(cells: Cells, arm: str, name: str) -> str:
    values = cells.of(arm, name)
    return spread(values)


def draw(cells: Cells) -> Figure:
    """Percent right of each arm."""
    figure, (axis,) = panels("answers, % right")
    for number, arm in enumerate(cells.study.arms):
        axis.bar(arm, fmean(cells.of(arm, "right")), color=COLOURS[number])
        axis.plot([number] * len(cells.study.seeds), cells.of(arm, "right"), "k.", markersize=3)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write unless it was a look."""
    parser = study_parser(__doc__, "a tiny random model, one seed; writes nothing", seeds=3, cells=True)
    parser.add_argument("--full", action="store_true", help="DINOv2-S and SmolLM2-135M")
    asked = parser.parse_args(arguments)
    if asked.full == asked.quick:
        parser.error("say either --full or --quick")
    seeds = (0,) if asked.quick else tuple(range(asked.seeds))
    kind = TINY if asked.quick else FULL
    sizes = {
        "tiny": asked.quick,
        "steps": kind["steps"],
        "rate": kind["rate"],
        "trained": TRAINED_ON,
        "measured": MEASURED,
        "batch": BATCH,
    }
    arms = {name: {**made, **sizes, "rank": RANK} for name, made in ARMS.items()}
    study = Study("vlm", measure, arms, seeds, kept=asked.full)
    if asked.list:
        print(study.listed())
        return 0
    cells = study.run(asked.jobs)
    text = page(cells)
    print(text)
    if not asked.quick:
        figures = {"cells": cells.named(),
                   "requirements": [r.to_json() for r in requirements(cells)]}  # fmt: skip
        write_results("vlm", figures, text, draw(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
