"""One skill out of a general model: which way keeps it, and how fast the dropped ones come back.

    python benchmarks/narrow.py              # digits, 10 seeds, all arms; and the same by gates under CKKS; minutes
    python benchmarks/narrow.py --quick      # two seeds, few arms, for a look; writes nothing
    python benchmarks/narrow.py --jobs 2     # processes at a time
    python benchmarks/narrow.py --set data.partition=iid    # the federation alone, a key changed, in clear; writes nothing

An MLP 64-256-256-10 learns ten digits; even digits are kept, at 48 neurons a layer. Every arm takes as many steps on as many even
samples, counted: 300 before the cut, 300 after it. Then each learns the odd digits anew, for 30, 100 and 300 steps, with its head
as it is and with a fresh one, beside the full model (ceiling) and the same small network from scratch on even digits (floor).
A null exits 0; 1 means that a number is missing, or that arms were not equal. Results: `benchmarks/results/narrow.{json,md,svg}`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from dictpfl.client.compress.cutting.axes import axes_of
from dictpfl.client.compress.narrow.phases import Narrowing, narrow, trained
from dictpfl.client.compress.narrow.relearn import Residual, figure, probed, relearnt, verdicts
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.training.task import load_task
from dictpfl.common.settings import Data, Training
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import Cells, Claim, Study, claims_table, study_parser
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines, write_results
from lib.narrow_federation import (
    FEDERATED,
    FEDERATED_SEEDS,
    TASK,
    federated,
    federated_requirements,
    federated_text,
    looked_at,
    mean,
)
from lib.residuals import reading, residual_text

WIDTHS, KEEP, TRAINED_ON = (256, 256), 48, 1200
GENERAL, PHASE, COUNTS = 600, 300, (30, 100, 300)
TRAINING = Training(batch_size=32, learning_rate=1e-3, device="cpu")
RELEARNING = Training(batch_size=32, learning_rate=5e-4, device="cpu")
CEILING, FLOOR = "full model", "scratch"
GATES, LASSO = "gates 1e-2", "lasso 3e-3"
ARMS: Mapping[str, Mapping[str, Any]] = {
    CEILING: {"way": ""},
    GATES: {"way": "gates", "penalty": 1e-2},
    "gates 1e-3": {"way": "gates", "penalty": 1e-3},
    "gates and tables 1e-2": {"way": "gates", "penalty": 1e-2, "tables": 8},
    "lasso 1e-3": {"way": "lasso", "penalty": 1e-3},
    LASSO: {"way": "lasso", "penalty": 3e-3},
    "ablation": {"way": "ablation"},
    "attribution": {"way": "attribution"},
    "attribution-abs": {"way": "attribution-abs"},
    "activation": {"way": "activation"},
    "magnitude": {"way": "magnitude"},
    "random": {"way": "random", "draw": 0},
    "random, 2nd draw": {"way": "random", "draw": 1},
    "random, 3rd draw": {"way": "random", "draw": 2},
    FLOOR: {"way": "scratch"},
    "distil": {"way": "distil"},
    "uncut": {"way": "uncut"},
}
QUICK = (CEILING, GATES, LASSO, "ablation", "attribution", "random", FLOOR)
_LOOK = 2


@cache
def _digits() -> Samples:
    return load_dataset(Data(), 1).samples


def _split(seed: int) -> tuple[Samples, Samples]:
    """Draw 1,200 images to train on, and the other 597 to measure on."""
    order = np.random.default_rng(seed).permutation(len(_digits()))
    return _digits().take(order[:TRAINED_ON]), _digits().take(order[TRAINED_ON:])


def _general(seed: int) -> nn.Module:
    """Train the general model on all ten digits."""
    torch.manual_seed(seed)
    training = TRAINING.model_copy(update={"steps": GENERAL})
    return trained(mlp((1, 8, 8), 10, WIDTHS), _split(seed)[0], load_task(TASK), training, seed)[0]


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure one arm under one seed: the kept skill right after the cut and at the end, and what is left of the dropped one."""
    torch.set_num_threads(1)
    task, general, (train, test) = load_task(TASK), _general(seed), _split(seed)
    even, odd = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)
    found: dict[str, Any] = {"steps": 0, "samples": 0}
    model = general
    if arm["way"]:
        chosen = {name: value for name, value in arm.items() if name != "draw"}
        how = Narrowing(keep=KEEP, steps=PHASE, recover=PHASE, seed=seed + 1000 * arm.get("draw", 0), **chosen)
        made = narrow(general, axes_of(general), train.of_classes(even), task, TRAINING, how)
        model = made.model
        found = {
            "steps": made.steps,
            "samples": made.samples,
            "after": figure(made.right_after, test.of_classes(even), task),
        }
    old, new = train.of_classes(odd), test.of_classes(odd)
    return found | {
        "even": figure(model, test.of_classes(even), task),
        "odd": figure(model, new, task),
        "parameters": sum(p.numel() for p in model.parameters()),
        "relearnt": _named(relearnt(model, old, new, task, RELEARNING, COUNTS, seed=seed)),
        "fresh": _named(relearnt(model, old, new, task, RELEARNING, COUNTS, seed=seed, fresh_head=True)),
        "probe": probed(model, old, new),
    }


def _named(curve: Mapping[int, float]) -> dict[str, float]:
    return {str(count): value for count, value in curve.items()}


def residuals(cells: Cells, which: str) -> dict[str, dict[int, Residual]]:
    """Place every arm between floor and ceiling at each number of steps, by one of the two audits."""
    curves = {arm: [{int(k): v for k, v in one.items()} for one in cells.of(arm, which)] for arm in cells.study.arms}
    return verdicts(curves, CEILING, FLOOR)


def probe_residuals(cells: Cells) -> dict[str, Residual]:
    """Place every arm by its linear probe."""
    found = verdicts(
        {arm: [{0: v} for v in cells.of(arm, "probe")] for arm in cells.study.arms}, CEILING, FLOOR, least=2.0
    )
    return {arm: by[0] for arm, by in found.items()}


def claims(cells: Cells) -> list[Claim]:
    """Compare what the page speaks of."""
    at = str(COUNTS[-1])
    for (arm, seed), one in cells.found.items():
        del arm, seed
        one["odd relearnt"], one["odd relearnt, fresh head"] = one["relearnt"][at], one["fresh"][at]
    rivals = [arm for arm in cells.study.arms if arm not in (CEILING, "attribution")]
    found = [cells.claim("even", arm, CEILING) for arm in cells.study.arms if arm != CEILING]
    found += [cells.claim("odd relearnt", arm, "attribution", higher=False) for arm in rivals]
    found += [cells.claim("probe", arm, "attribution", higher=False) for arm in rivals]
    if "random" in cells.study.arms:
        found.append(cells.claim("even", "attribution", "random"))
    return found


def requirements(cells: Cells) -> list[Requirement]:
    """Judge what was asked of this study beforehand."""
    mean = {(arm, name): fmean(cells.of(arm, name)) for arm in (CEILING, GATES, LASSO) for name in ("even",)}
    left = {arm: by[COUNTS[-1]] for arm, by in residuals(cells, "relearnt").items()}
    needed = []
    for arm in (LASSO, GATES):
        needed.append(Requirement(f"{arm}: points of the even skill below the full model", "at most", 1.0,
                                  mean[CEILING, "even"] - mean[arm, "even"], "points"))  # fmt: skip
        gap = _difference(cells, arm, "attribution", left[arm].gap)
        needed.append(Requirement(f"{arm}: lower end of attribution's residual minus its own", "above", 0.0, gap.low))
        needed.append(Requirement(f"{arm}: attribution's residual minus its own", "at least", 0.3, gap.mean))
    lift = cells.claim("after", GATES, "ablation").interval
    needed.append(Requirement("gates above ablation right after the cut", "at least", 10.0, lift.mean, "points"))
    return needed


def _difference(cells: Cells, arm: str, rival: str, gap: float) -> Any:
    """Compare two arms' residuals: paired differences over the common gap between ceiling and floor."""
    from dictpfl.client.compress.verdicts import interval

    at = str(COUNTS[-1])
    pairs = zip(cells.of(rival, "relearnt"), cells.of(arm, "relearnt"), strict=True)
    return interval([(r[at] - a[at]) / gap for r, a in pairs])


def page(cells: Cells, fed: Cells | None) -> str:
    """benchmarks/results/narrow.md."""
    kept, fresh, probe = residuals(cells, "relearnt"), residuals(cells, "fresh"), probe_residuals(cells)
    last = COUNTS[-1]
    rows = [
        [arm, f"{cells.of(arm, 'parameters')[0]:,}", mean(cells, arm, "after"), mean(cells, arm, "even"),
         *(_curve(cells, arm, which, count) for which in ("relearnt", "fresh") for count in COUNTS), mean(cells, arm, "probe")]
        for arm in cells.study.arms
    ]  # fmt: skip
    heads = ["arm", "parameters", "right after the cut", "even", *(f"odd after {c}" for c in COUNTS),
             *(f"fresh head, {c}" for c in COUNTS), "probe on odd"]  # fmt: skip
    judged = [
        [arm, residual_text(kept[arm][last]), residual_text(fresh[arm][last]), residual_text(probe[arm])]
        for arm in kept
    ]
    counted = cells.found[GATES, cells.study.seeds[0]]
    return f"""# Narrow models: even digits out of ten

An MLP 64-256-256-10 narrowed to 48 neurons a layer, {len(cells.study.seeds)} seeds, each with a split of its own (1,200 images to train on,
597 to measure on); every arm took {counted["steps"]} steps on {counted["samples"]:,} even samples, counted. Percent of test images, mean ± standard
deviation. *Right after the cut*: before recovery. *Odd after n*: the odd digits after n steps of relearning, with the head as it is, and
with a fresh one. *Probe*: a linear classifier of odd digits on the last hidden layer.

{markdown_table(heads, rows)}

{preamble(cells.measured(), "python benchmarks/narrow.py")}

## What is left of the odd digits

(arm - scratch) / (full model - scratch), with its 95 % interval over seeds: 0 is a network that never had them, 1 the general model.
With the head as it is this measures for a good part how far training on even digits had pushed the odd rows of the head down; with a
fresh head, and by the probe, it measures the rest of the network. Harder to relearn is not erased.

{markdown_table(["arm", f"head as it is, {last} steps", f"fresh head, {last} steps", "linear probe"], judged)}

{reading(kept, probe)}

## Verdicts

{claims_table(claims(cells))}

"Better" of odd digits is: fewer came back.

## Requirements

{requirement_lines([*requirements(cells), *(federated_requirements(fed) if fed else [])])}
{federated_text(fed) if fed else ""}
![what the arms keep, and what comes back](narrow.svg)
"""


def _curve(cells: Cells, arm: str, which: str, count: int) -> str:
    return f"{fmean(one[str(count)] for one in cells.of(arm, which)):.1f}"


def draw(cells: Cells) -> Figure:
    """The kept skill against what the probe reads of the dropped one, and how fast that comes back."""
    figure_, (left, right) = panels("kept and left", "odd digits coming back, head as it is")
    for number, arm in enumerate(cells.study.arms):
        colour, marker = COLOURS[number % len(COLOURS)], "osD^v"[number // len(COLOURS) % 5]
        left.scatter(
            [fmean(cells.of(arm, "even"))], [fmean(cells.of(arm, "probe"))], color=colour, marker=marker, label=arm
        )
        curve = [fmean(one[str(c)] for one in cells.of(arm, "relearnt")) for c in COUNTS]
        right.plot(COUNTS, curve, color=colour, marker=marker, label=arm)
    left.set_xlabel("even digits, % (kept)")
    left.set_ylabel("linear probe on odd digits, % (dropped)")
    right.set_xscale("log")
    right.minorticks_off()
    right.set_xticks(COUNTS, [str(count) for count in COUNTS])
    right.set_xlabel("steps on odd digits")
    right.set_ylabel("odd digits, %")
    left.legend(frameon=False, fontsize=6)
    return figure_


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write unless it was a look."""
    parser = study_parser(__doc__, "two seeds, few arms; writes nothing", seeds=10)
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="the federation alone, with a key changed")
    asked = parser.parse_args(arguments)
    if asked.set:
        return looked_at(asked.set)
    seeds, names = (range(_LOOK), QUICK) if asked.quick else (range(asked.seeds), tuple(ARMS))
    cells = Study("narrow", measure, {n: ARMS[n] for n in names}, tuple(seeds), {CEILING: "it is not narrowed"}).run(
        asked.jobs
    )
    fed = None
    if not asked.quick:
        unequal = {
            arm: "each of three institutions takes the steps, on its own samples"
            for arm in FEDERATED
            if arm != "pooled"
        }
        fed = Study("narrow-federated", federated, FEDERATED, FEDERATED_SEEDS, unequal).run(asked.jobs)
    text, needed = page(cells, fed), [*requirements(cells), *(federated_requirements(fed) if fed else [])]
    print(text)
    if not asked.quick:
        left = {
            w: {a: {str(c): _json(r) for c, r in by.items()} for a, by in residuals(cells, w).items()}
            for w in ("relearnt", "fresh")
        }
        figures = {"cells": cells.named(),
                   "federated": fed.named() if fed else {},
                   "claims": [c.to_json() for c in claims(cells)], "residuals": left,
                   "requirements": [r.to_json() for r in needed], "machine": cells.measured()}  # fmt: skip
        write_results("narrow", figures, text, draw(cells))
    return 0


def _json(found: Residual) -> dict[str, Any]:
    i = found.interval
    return {"gap": found.gap, "verdict": found.verdict} | ({"mean": i.mean, "low": i.low, "high": i.high} if i else {})


if __name__ == "__main__":
    sys.exit(main())
