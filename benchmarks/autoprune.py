"""Which tokens a vision transformer may leave unread between its layers, and does it help to ask each sample?

    python benchmarks/autoprune.py           # digits, 3 seeds, all arms, and the time of a step; about ten minutes
    python benchmarks/autoprune.py --vit     # garments, 49 tokens, a model that is trained longer: autoprune_vit.md
    python benchmarks/autoprune.py --mosaic  # questions about pictures of 49 digits, easy ones and hard ones: autoprune_mosaic.md; hours
    python benchmarks/autoprune.py --quick   # one seed, few arms, for a look, of any of these; writes nothing

A transformer of 6 blocks reads an image of 8 x 8 pixels as 64 tokens. It is trained once a seed on all of them; then each arm measures it
with 24 or 16 of 64 tokens a layer in the mean, without training, and after as many further steps as the full model takes. A fixed curve's k
is chosen on validation images. The time of a training step is that of DINOv2-S (12 blocks, width 384) at 112 pixels, with random weights:
full and reduced in turn, in one process. A null exits 0. Results: `benchmarks/results/autoprune.{json,md,svg}`.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.networks.vit import VitTiny
from dictpfl.client.model.tokens.install import reduce_tokens, reduction_of, with_gamma
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate, train
from dictpfl.common.settings import Data, Decomposition, Tokens, Training
from lib import between
from lib.arms import SAMPLES, STEPS, Cells, Claim, Study, claims_table, study_parser
from lib.between import (
    ARMS,
    CALIBRATED,
    FIXED,
    FLAT,
    FULL,
    OWN,
    QUICK,
    RANDOM,
    SHUFFLED,
    SLOPES,
    UNMERGED,
    UNTRAINED,
    mean_of,
    slopes_told,
)
from lib.machine import Requirement, bars, machine, markdown_table, panels, preamble, requirement_lines, write_results
from lib.steps import paired_steps

PATCHES, TRAINED_ON, VALIDATED_ON = 64, 1000, 300
BASE, FURTHER = 300, 60
TRAINING = Training(batch_size=32, learning_rate=3e-3, device="cpu")
BUDGETS = (24, 16)
_WELL = 80.0


@cache
def _digits() -> Samples:
    return load_dataset(Data(), 1).samples


def _split(seed: int) -> tuple[Samples, Samples, Samples]:
    order = np.random.default_rng(seed).permutation(len(_digits()))
    ends = TRAINED_ON, TRAINED_ON + VALIDATED_ON
    return _digits().take(order[: ends[0]]), _digits().take(order[ends[0] : ends[1]]), _digits().take(order[ends[1] :])


def _trained(model: nn.Module, samples: Samples, steps: int, seed: int) -> tuple[nn.Module, int, int]:
    twin = Twin(model, Decomposition(enabled=False), {})
    told = train(twin, samples, TRAINING.model_copy(update={"steps": steps}), load_task("classification"), seed=seed)
    return twin.merge().eval(), told.steps, told.samples_seen


@cache
def _base(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = VitTiny((1, 8, 8), 10, dim=32, depth=6, heads=4, patch=1)
    return _trained(model, _split(seed)[0], BASE, seed)[0]


def _accuracy(model: nn.Module, samples: Samples) -> float:
    twin = Twin(model, Decomposition(enabled=False), {})
    found = evaluate(twin.module.eval(), samples, load_task("classification"))
    return 100.0 * found.metric_sum / found.count


@cache
def _slope(seed: int, budget: int) -> float:
    """Choose k on validation images; of equal ones the flatter."""
    validation = _split(seed)[1]
    return max(SLOPES, key=lambda k: (_accuracy(_reduced(seed, budget, {"k": k}), validation), -k))


@cache
def _gamma(seed: int) -> float:
    """Calibrate: a validation image at the 90th percentile of MI is on the flat curve."""
    validation = torch.tensor(_split(seed)[1].features)
    settings = Tokens(reducer="autoprune", keep=0.5, options=CALIBRATED)
    return float(with_gamma(_base(seed), settings, lambda model: model(validation)).options["gamma"])


def _reduced(seed: int, budget: int, options: Mapping[str, Any]) -> nn.Module:
    model = copy.deepcopy(_base(seed))
    if options:
        reduce_tokens(model, "autoprune", keep=budget / PATCHES, **options)
    return model


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure an arm at both budgets, without training and with it."""
    train_on, _, test = _split(seed)
    found: dict[str, Any] = {STEPS: 0, SAMPLES: 0}
    for budget in BUDGETS:
        options = {key: value for key, value in arm.items() if key != "trains"}
        if options.get("k") == "validated":
            options["k"] = _slope(seed, budget)
            found[f"k at {budget}"] = options["k"]
        if options.get("gamma") == "calibrated":
            options["gamma"] = found["gamma"] = _gamma(seed)
        model = _reduced(seed, budget, options)
        found[f"free at {budget}"] = _accuracy(model, test)
        if arm.get("trains", True) and budget == BUDGETS[0]:
            trained, steps, samples = _trained(_reduced(seed, budget, options), train_on, FURTHER, seed + 100)
            found[f"trained at {budget}"] = _accuracy(trained, test)
            found |= {STEPS: steps, SAMPLES: samples}
    return found


def step_times(keep: float = 0.25, repeats: int = 7, batch: int = 8) -> dict[str, Any]:
    """Time training steps of DINOv2-S at 112 pixels, full and reduced in turn, on one thread."""
    import timm

    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=112, num_classes=10)
    models = {"full": made, "reduced": reduce_tokens(copy.deepcopy(made), "autoprune", keep=keep)}
    images, labels = torch.randn(batch, 3, 112, 112), torch.arange(batch) % 10
    timed = paired_steps(models["full"], models["reduced"], images, labels, repeats)
    told = reduction_of(models["reduced"])
    read = [value / told.told.samples for value in told.told.read]
    whole = images.shape[-1] ** 2 // 14**2 + 1
    return timed | {"read": read, "batch": batch,
            "flops": sum(map(_flops, read)) / (12 * _flops(whole)), "machine": machine()}  # fmt: skip


def _flops(tokens: float, width: int = 384, hidden: int = 1536) -> float:
    return 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * hidden


def claims(cells: Cells) -> list[Claim]:
    """Comparisons of the page."""
    asked = [(FIXED, FLAT), (OWN, SHUFFLED), (OWN, FIXED), (FIXED, RANDOM), (FIXED, UNMERGED)]
    pairs = [(arm, rival) for arm, rival in asked if {arm, rival} <= set(cells.study.arms)]
    free = [cells.claim(f"free at {budget}", *pair) for budget in BUDGETS for pair in pairs]
    further = [pair for pair in pairs if not {*pair} & set(UNTRAINED)]
    return free + [cells.claim(f"trained at {BUDGETS[0]}", *pair) for pair in further]


def requirements(cells: Cells, timed: Mapping[str, Any]) -> list[Requirement]:
    """Figures that were asked for."""
    shape = cells.claim("free at 24", FIXED, FLAT).interval
    adapts = [cells.claim(f"free at {budget}", OWN, SHUFFLED).interval for budget in BUDGETS]
    return [
        Requirement("time of a training step at 25 % of the tokens, of the full one", "at most", 0.55, timed["ratio"]),
        Requirement("fixed curve above flat at 24 of 64 tokens, without training", "at least", 2.0, shape.mean, "points"),
        *(Requirement(f"own MI above shuffled at {budget}: lower end", "above", 0.0, found.low, "points")
          for budget, found in zip(BUDGETS, adapts, strict=True)),
    ]  # fmt: skip


def page(cells: Cells, timed: Mapping[str, Any]) -> str:
    """benchmarks/results/autoprune.md."""
    adapts = [c.verdict for c in claims(cells) if (c.arm, c.rival) == (OWN, SHUFFLED)]
    shapes = [c for c in claims(cells) if (c.arm, c.rival) == (FIXED, FLAT)]
    null = "better" not in adapts
    first = (
        "Adapting the curve to each sample was not shown to help here"
        if null
        else "Adapting the curve to each sample helped in " + f"{adapts.count('better')} of {len(adapts)} comparisons"
    )
    shaped = [c.figure for c in shapes if c.verdict == "better"]
    second = f"the shape of a fixed curve was ({', '.join(shaped)})" if shaped else "nor was the shape of a fixed curve"
    reached = fmean(cells.of(FULL, "free at 24"))
    short = (
        ""
        if reached >= _WELL
        else f" This says little: the model was trained for {BASE} steps alone and is right about {reached:.0f} % of images with all its\n"
        "tokens, so that a choice of tokens has little to lose."
    )
    rows = [
        [arm, *(mean_of(cells, arm, f"free at {b}") for b in BUDGETS), mean_of(cells, arm, f"trained at {BUDGETS[0]}")]
        for arm in cells.study.arms
    ]  # fmt: skip
    heads = ["arm", *(f"no training, {b} of 64" for b in BUDGETS), f"trained, {BUDGETS[0]} of 64"]  # fmt: skip
    ks = {b: cells.of(FIXED, f"k at {b}") for b in BUDGETS}
    return f"""# Tokens pruned between layers

{first}; {second}.{short}

Digits of 8 x 8 pixels, a token a pixel, 6 blocks of width 32, {len(cells.study.seeds)} seeds with splits of their own; percent of test images,
mean ± standard deviation. *No training*: the model that was trained on all tokens for {BASE} steps, measured with fewer. *Trained*: {FURTHER}
further steps with the reducer, the full model's as well. k of the fixed curve, chosen on {VALIDATED_ON} validation images, seed by seed: {slopes_told(ks)}.

{markdown_table(heads, rows)}

{preamble(cells.measured(), "python benchmarks/autoprune.py")}

## Verdicts

{claims_table(claims(cells))}

## Time of a training step

DINOv2-S at 112 pixels (random weights, 65 tokens, batch of {timed["batch"]}, one thread, processor time, median of paired steps): full
{timed["full"]:.2f} s, at 25 % of the tokens {timed["reduced"]:.2f} s, choosing and merging included: {timed["ratio"]:.2f} of it; by the formula 4 n d² +
2 n² d + 2 n d m, {timed["flops"]:.2f}. Tokens read by layer: {", ".join(f"{v:.0f}" for v in timed["read"])}.

{preamble(timed["machine"], "python benchmarks/autoprune.py")}

## Requirements

{requirement_lines(requirements(cells, timed))}

![accuracy by arm](autoprune.svg)
"""


def draw(cells: Cells) -> Figure:
    """Accuracy of each arm at both budgets, without training."""
    figure, axes = panels(*(f"{budget} of 64 tokens, no training" for budget in BUDGETS))
    for axis, budget in zip(axes, BUDGETS, strict=True):
        bars(axis, {arm: cells.of(arm, f"free at {budget}") for arm in cells.study.arms})
        axis.set_xlabel("% of test images")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write unless it was a look."""
    parser = study_parser(__doc__, "one seed, few arms; writes nothing", seeds=3)
    which = parser.add_mutually_exclusive_group()
    for workload, load in between.WORKLOADS.items():
        which.add_argument(f"--{workload}", action="store_const", dest="workload", const=workload, help=load.title)
    asked = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seeds, names = ((0,), QUICK) if asked.quick else (tuple(range(asked.seeds)), tuple(ARMS))
    if asked.workload:
        between.run(asked.workload, seeds, asked.jobs, quick=asked.quick)
        return 0
    cells = Study("autoprune", measure, {n: ARMS[n] for n in names}, seeds, UNTRAINED).run(asked.jobs)
    timed = step_times(repeats=2 if asked.quick else 7)
    text, needed = page(cells, timed), requirements(cells, timed)
    print(text)
    if not asked.quick:
        figures = {"cells": cells.named(), "time": timed,
                   "claims": [c.to_json() for c in claims(cells)], "requirements": [r.to_json() for r in needed],
                   "machine": cells.measured()}  # fmt: skip
        write_results("autoprune", figures, text, draw(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
