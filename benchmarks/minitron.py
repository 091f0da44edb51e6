"""A hybrid cut by what its samples use, against chance, magnitude, the reverse, and against starting anew (arXiv 2504.11409).

    python benchmarks/minitron.py              # 5 subjects, all arms; about two hours of two cores
    python benchmarks/minitron.py --quick      # one subject, scores against five draws as cut, nothing distilled; writes nothing
    python benchmarks/minitron.py --jobs 2     # processes at a time

Half of the heads, the channels, the neurons, or two blocks go from a Nemotron-H of 1.5 million parameters that was pretrained for 600
steps on messages and on Python; calibration is 32 sequences of each. Every arm is measured as it was cut, and again after 80 steps
of distillation (or, where it says so, of labels): as many steps on as many sequences, counted. Loss in nats a token, mean of both
domains' unseen texts. A null exits 0; 1 means that a number is missing, or that arms were not equal.
Results: `benchmarks/results/minitron.{json,md,svg}`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from dictpfl.client.compress.cutting.axes import Axis, axes_of
from dictpfl.client.compress.cutting.choose import choose
from dictpfl.client.compress.cutting.cut import cut
from dictpfl.client.compress.cutting.shrink import parameters
from dictpfl.client.compress.distil import distil
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate
from dictpfl.common.keeping import keep
from dictpfl.deploy.reports.plots import COLOURS
from lib import hybrid
from lib.arms import Cells, Claim, Study, claims_table, study_parser
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines, write_results

HEADS, CHANNELS, NEURONS, BOTH, DEPTH = "heads", "channels", "neurons", "heads and neurons", "two blocks"
COUNTS: Mapping[str, Mapping[str, int]] = {
    HEADS: {"mamba_num_heads": 8},
    CHANNELS: {"mamba_head_dim": 8},
    NEURONS: {"intermediate_size": 256},
    BOTH: {"mamba_num_heads": 8, "intermediate_size": 256},
    DEPTH: {"layers_block_type": 6},
}
DISTILLED = 80
PARENT, BLIND, REVERSED = "parent", "group-blind", "reversed"
DRAWS = range(1, 6)
ARMS: dict[str, dict[str, Any]] = {
    PARENT: {"what": ""},
    f"{HEADS}, activation": {"what": HEADS, "how": "activation"},
    f"{HEADS}, {BLIND}": {"what": HEADS, "how": "activation", "order": BLIND},
    f"{HEADS}, {REVERSED}": {"what": HEADS, "how": "activation", "order": REVERSED},
    f"{HEADS}, magnitude": {"what": HEADS, "how": "magnitude"},
    **{f"{HEADS}, random {n}": {"what": HEADS, "how": "random", "draw": n} for n in DRAWS},
    f"{HEADS}, labels only": {"what": HEADS, "how": "activation", "weight": 0.0},
    f"{CHANNELS}, activation": {"what": CHANNELS, "how": "activation"},
    **{f"{CHANNELS}, random {n}": {"what": CHANNELS, "how": "random", "draw": n} for n in DRAWS},
    f"{NEURONS}, activation": {"what": NEURONS, "how": "activation"},
    f"{NEURONS}, magnitude": {"what": NEURONS, "how": "magnitude"},
    **{f"{NEURONS}, random {n}": {"what": NEURONS, "how": "random", "draw": n} for n in DRAWS},
    f"{BOTH}, activation": {"what": BOTH, "how": "activation"},
    f"{BOTH}, scratch, labels": {"what": BOTH, "how": "activation", "scratch": True, "weight": 0.0},
    f"{BOTH}, scratch, teacher": {"what": BOTH, "how": "activation", "scratch": True},
    f"{DEPTH}, least important": {"what": DEPTH, "how": "activation"},
}
QUICK = {
    name: arm | {"as cut": True}
    for name, arm in ARMS.items()
    if name == PARENT or (arm["what"] in (HEADS, CHANNELS, NEURONS) and "weight" not in arm)
}
"""Scores differ before distillation if at all, and one draw tells nothing: draws lie further apart than scores from their mean."""
_TASK = "causal-lm"
_RATE = 1e-3


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure one arm on the subject of a seed: parameters, loss as cut and after training, seconds of a forward pass."""
    torch.set_num_threads(1)
    parent = hybrid.subject(seed)
    found: dict[str, Any] = {"steps": 0, "samples": 0}
    if not arm["what"]:
        return found | figures(parent, "cut") | {"parameters": parameters(parent), "without B": without_state(parent)}
    small = made(parent, arm, seed)
    if arm.get("scratch"):
        small = hybrid.fresh(seed + 1000, **{key: getattr(small.config, key) for key in hybrid.MODEL})
    found |= figures(small, "cut") | {"parameters": parameters(small)}
    if arm.get("as cut"):
        return found
    training = hybrid.TRAINING.model_copy(update={"steps": DISTILLED, "learning_rate": _RATE, "warmup_steps": 10})
    weight = arm.get("weight", 1.0)
    taught, seen = distil(small, parent if weight else None, hybrid.both("train"), training, weight=weight, seed=seed)
    # As the optimiser counted them: a batch that was not full would show.
    steps = seen.samples_seen / training.batch_size
    return (
        found | figures(taught.eval(), "taught") | {"steps": steps, "samples": seen.samples_seen} | speed(parent, small)
    )


def made(parent: nn.Module, arm: Mapping[str, Any], seed: int) -> nn.Module:
    """The parent, cut as an arm says."""
    axes, task, samples = axes_of(parent), load_task(_TASK), hybrid.both("calibration")
    counts = COUNTS[arm["what"]]
    draw = seed * 100 + arm.get("draw", 0)
    order = arm.get("order", "")
    chosen = choose(parent, axes, counts, samples, task, arm["how"], seed=draw)
    if not order:
        return cut(parent, chosen.kept)
    kept = {
        name: _otherwise(axes[name], scores, counts[axes[name].setting], order)
        for name, scores in chosen.scores.items()
    }
    return cut(parent, kept, grouped=order != BLIND)


def _otherwise(axis: Axis, scores: np.ndarray[Any, Any], count: int, order: str) -> np.ndarray[Any, Any]:
    if order == REVERSED:
        return keep(-scores, axis.group, count, axis.name)
    return keep(scores, np.zeros_like(axis.group), count, axis.name)


def figures(model: nn.Module, when: str) -> dict[str, Any]:
    """Loss on each domain's unseen texts, and their mean."""
    task = load_task(_TASK)
    losses = {}
    for domain, parts in hybrid.tokens().items():
        found = evaluate(model, parts["test"], task)
        losses[domain] = found.loss_sum / found.count
    return {f"{when} {domain}": loss for domain, loss in losses.items()} | {when: fmean(losses.values())}


@torch.no_grad()
def without_state(parent: nn.Module) -> float:
    """Loss when no mixer writes into its state: rows of B are zero. A subject that loses nothing cannot show what groups are worth."""
    import copy

    deaf = copy.deepcopy(parent)
    for module in deaf.modules():
        if hasattr(module, "A_log"):
            start = 2 * module.intermediate_size
            module.in_proj.weight[start : start + module.n_groups * module.ssm_state_size] = 0.0
            width = module.n_groups * module.ssm_state_size
            module.conv1d.weight[module.intermediate_size : module.intermediate_size + width] = 0.0
            if module.conv1d.bias is not None:
                module.conv1d.bias[module.intermediate_size : module.intermediate_size + width] = 0.0
    return float(figures(deaf, "cut")["cut"])


@torch.no_grad()
def speed(parent: nn.Module, small: nn.Module) -> dict[str, float]:
    """CPU seconds of a forward pass of 4 sequences, parent over small one; alternating, the least of seven each."""
    ids = torch.from_numpy(hybrid.both("test").features[:4])
    taken: dict[str, list[float]] = {"parent": [], "small": []}
    for _ in range(7):
        for name, model in (("parent", parent), ("small", small)):
            began = time.process_time()
            model.eval()(ids)
            taken[name].append(time.process_time() - began)
    return {"faster": min(taken["parent"]) / min(taken["small"])}


def drawn(cells: Cells, what: str, figure: str) -> list[float]:
    """Mean over the random draws of a figure, by seed."""
    each = [cells.of(f"{what}, random {n}", figure) for n in DRAWS]
    return [fmean(values) for values in zip(*each, strict=True)]


def against_random(cells: Cells, what: str, how: str, figure: str) -> Claim:
    """An arm against the mean of the random draws, paired by seed."""
    from dictpfl.client.compress.verdicts import compared

    arm = f"{what}, {how}"
    return Claim(
        figure,
        arm,
        f"{what}, random (5 draws)",
        compared(cells.of(arm, figure), drawn(cells, what, figure), higher=False),
    )


def claims(cells: Cells) -> list[Claim]:
    """What is compared, before distillation and after it."""
    found = []
    for figure in ("cut", "taught"):
        one = f"{HEADS}, activation"
        found += [against_random(cells, HEADS, how, figure) for how in ("activation", "magnitude")]
        found += [
            cells.claim(figure, one, f"{HEADS}, {rival}", higher=False) for rival in (BLIND, REVERSED, "magnitude")
        ]
        found.append(against_random(cells, CHANNELS, "activation", figure))
        found += [against_random(cells, NEURONS, how, figure) for how in ("activation", "magnitude")]
        found.append(cells.claim(figure, f"{NEURONS}, activation", f"{NEURONS}, magnitude", higher=False))
        found.append(cells.claim(figure, f"{DEPTH}, least important", f"{NEURONS}, activation", higher=False))
    found.append(cells.claim("taught", f"{HEADS}, activation", f"{HEADS}, labels only", higher=False))
    found += [
        cells.claim("taught", f"{BOTH}, activation", f"{BOTH}, scratch, {how}", higher=False)
        for how in ("labels", "teacher")
    ]
    return found


def requirements(cells: Cells) -> list[Requirement]:
    """What the issue asks for."""
    parent, deaf = cells.of(PARENT, "cut"), cells.of(PARENT, "without B")
    heads = f"{HEADS}, activation"
    before, after = cells.of(heads, "cut"), cells.of(heads, "taught")
    won = [(b - a) / (b - p) for b, a, p in zip(before, after, parent, strict=True)]
    scratch = [
        min(pair)
        for pair in zip(*(cells.of(f"{BOTH}, scratch, {how}", "taught") for how in ("labels", "teacher")), strict=True)
    ]
    kept = cells.of(f"{BOTH}, activation", "taught")
    worst = min(r - a for a, r in zip(before, cells.of(f"{HEADS}, {REVERSED}", "cut"), strict=True))
    return [
        Requirement("zeroing B costs the subject", "at least", 0.05, fmean(deaf) - fmean(parent), "nats"),
        Requirement("heads by activation better than random within groups, as cut", "at least", 0.03,
                    against_random(cells, HEADS, "activation", "cut").interval.mean, "nats"),
        Requirement("and than group-blind", "at least", 0.03,
                    cells.claim("cut", heads, f"{HEADS}, {BLIND}", higher=False).interval.mean, "nats"),
        Requirement("and than reversed, in the worst seed", "at least", 0.0, worst, "nats"),
        Requirement("channels by activation better than random, as cut", "at least", 0.05,
                    against_random(cells, CHANNELS, "activation", "cut").interval.mean, "nats"),
        Requirement("share of the loss of halving heads that 80 steps win back", "at least", 0.6, fmean(won)),
        Requirement("cut and distilled better than the better of both from scratch", "at least", 0.2,
                    fmean(s - k for s, k in zip(scratch, kept, strict=True)), "nats"),
        Requirement("heads and neurons halved: times faster forward", "at least", 1.25, fmean(cells.of(f"{BOTH}, activation", "faster"))),
    ]  # fmt: skip


def page(cells: Cells) -> str:
    """The Markdown page."""
    rows = [[arm, f"{cells.of(arm, 'parameters')[0]:,}", *(_mean(cells, arm, f) for f in
            ("cut messages", "cut Python", "cut", "taught messages", "taught Python", "taught", "faster"))] for arm in cells.study.arms]  # fmt: skip
    judged = claims(cells)
    after = [c for c in judged if c.figure == "taught" and "random" in c.rival]
    null = (
        "No difference shown after distillation between scores and chance. "
        if all(c.verdict == "no difference shown" for c in after)
        else ""
    )
    able = requirements(cells)[0]
    state = (
        ""
        if able.met
        else "The subject's state matters too little to show anything of groups, and nothing is claimed of them. "
    )
    return f"""# Cutting a hybrid

{null}{state}A Nemotron-H of {cells.of(PARENT, "parameters")[0]:,} parameters, pretrained here for {hybrid.STEPS} steps; {len(cells.study.seeds)} subjects. Half of the heads of
all mixers, half of the channels, half of the neurons, or the two least important blocks go. Loss in nats a token on unseen texts, mean ±
standard deviation over subjects: as cut, and after {DISTILLED} steps of distillation, the same for every arm, counted. *Faster*: CPU time of the
parent's forward pass over the arm's, 4 sequences of {hybrid.LENGTH}.

{markdown_table(["arm", "parameters", "messages", "Python", "as cut", "messages, taught", "Python, taught", "taught", "faster"], rows)}

{preamble(cells.measured(), "python benchmarks/minitron.py")}

## Verdicts

{claims_table(judged)}

"Better" is a lower loss; *cut* is before training, *taught* after it.

## Requirements

{requirement_lines(requirements(cells))}

Nothing of the paper's scale is repeated: the mechanics are exact, and its trends are looked for in small.

![loss against size](minitron.svg)
"""


def _mean(cells: Cells, arm: str, name: str) -> str:
    if any(name not in cells.found[arm, seed] for seed in cells.study.seeds):
        return "-"
    values = cells.of(arm, name)
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def draw(cells: Cells) -> Figure:
    """Loss against parameters, as cut and after distillation."""
    figure, plots = panels("as cut", f"after {DISTILLED} steps")
    for ax, name in zip(plots, ("cut", "taught"), strict=True):
        for number, what in enumerate(COUNTS):
            arms = [a for a in cells.study.arms if cells.study.arms[a]["what"] == what and "scratch" not in a]
            x = [cells.of(a, "parameters")[0] / 1e6 for a in arms]
            y = [fmean(cells.of(a, name)) for a in arms]
            ax.scatter(x, y, color=COLOURS[number % len(COLOURS)], label=what, alpha=0.7)
        ax.axhline(fmean(cells.of(PARENT, "cut")), color="#6b7280", linewidth=1, label="parent")
        ax.set_xlabel("million parameters")
        ax.set_ylabel("loss, nats a token")
    plots[0].legend(fontsize=8)
    return figure


def main() -> int:
    """Run what has no cell yet, and write the page."""
    chosen = study_parser(__doc__, "one subject, few arms; writes nothing").parse_args()
    arms = QUICK if chosen.quick else ARMS
    study = Study("minitron", measure, arms, [1] if chosen.quick else [1, 2, 3, 4, 5], {PARENT: "nothing of it goes"})
    for seed in study.seeds:
        hybrid.subject(seed)  # once, before processes that would each make it
    cells = study.run(chosen.jobs)
    if chosen.quick:
        for arm in arms:
            print(f"{arm:28} {cells.of(arm, 'parameters')[0]:>10,} {cells.of(arm, 'cut')[0]:.4f}")
        for what in (HEADS, CHANNELS, NEURONS):
            draws = [cells.of(f"{what}, random {n}", "cut")[0] for n in DRAWS]
            print(f"{what}, random: {fmean(draws):.4f} ± {stdev(draws):.4f} over draws")
        return 0
    stated = requirements(cells)
    values = {"arms": {arm: {str(s): cells.found[arm, s] for s in study.seeds} for arm in arms}, "machine": cells.measured(),
              "claims": [c.to_json() for c in claims(cells)], "requirements": [r.to_json() for r in stated]}  # fmt: skip
    write_results("minitron", values, page(cells), draw(cells))
    print(requirement_lines(stated))
    return 0


if __name__ == "__main__":
    sys.exit(main())
