"""A hybrid cut by what its samples use, against chance, magnitude, the reverse, and against starting anew (arXiv 2504.11409).

    python benchmarks/minitron.py --jobs 2     # 5 subjects, all arms, two processes at a time; resumes cell by cell
    python benchmarks/minitron.py --list       # the cells, and whether they are there
    python benchmarks/minitron.py --quick      # one subject, scores against five draws as cut, nothing distilled; writes nothing

Half of the heads, the channels, the neurons, a quarter of the width, or two blocks go from a Nemotron-H of 1.5 million parameters that
was pretrained for 600 steps on messages and on Python; calibration is 32 sequences of each. Arms are measured as they were cut, and
again after 80 steps of distillation (or, where it says so, of labels): as many steps on as many sequences, counted. Of five random
draws two are distilled, and ways to score that are there to choose a default by are measured as cut alone. Two arms decide by messages that
three institutions hold, by topic: by their tally, or by the most skewed one's own. Loss in nats a token, mean of both domains' unseen
texts. A null exits 0; 1 means that a number is missing, or that arms were not equal.
Every arm and subject is a cell, a line in benchmarks/results/minitron.jsonl. Results: `benchmarks/results/minitron.{json,md,svg}`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
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
from dictpfl.client.compress.verdicts import BETTER, LEVEL
from dictpfl.client.training.task import load_task
from dictpfl.common.keeping import keep
from dictpfl.deploy.reports.plots import COLOURS
from lib import hybrid
from lib.arms import Cells, Claim, Study, ahead, claims_table, spread, study_parser
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines, write_results
from lib.shrinking import DISTILLED, TASK, calibrated, figures, speed, taught
from lib.topics import ALONE, TALLY, tallied

HEADS, CHANNELS, NEURONS, BOTH, WIDTH, DEPTH = (
    "heads", "channels", "neurons", "heads and neurons", "width", "two blocks",
)  # fmt: skip
COUNTS: Mapping[str, Mapping[str, int]] = {
    HEADS: {"mamba_num_heads": 8},
    CHANNELS: {"mamba_head_dim": 8},
    NEURONS: {"intermediate_size": 256},
    BOTH: {"mamba_num_heads": 8, "intermediate_size": 256},
    WIDTH: {"hidden_size": 96},
    DEPTH: {"layers_block_type": 6},
}
KINDS: Mapping[str, str] = {
    "mamba-channel": CHANNELS, "mamba-head": HEADS, "ffn": NEURONS, "width": WIDTH, "block": DEPTH,
}  # fmt: skip
"""What each kind of units is judged by."""
ACTIVATION, MAGNITUDE, ATTRIBUTION = WAYS = ("activation", "magnitude", "attribution")
VALIDATION, SEEDS = "validation", (1, 2, 3, 4, 5)
PARENT, BLIND, REVERSED = "parent", "group-blind", "reversed"
DRAWS, DISTILLED_DRAWS = range(1, 6), range(1, 3)
ARMS: dict[str, dict[str, Any]] = {
    PARENT: {"what": ""},
    f"{HEADS}, {ACTIVATION}": {"what": HEADS, "how": ACTIVATION},
    f"{HEADS}, {BLIND}": {"what": HEADS, "how": ACTIVATION, "order": BLIND},
    f"{HEADS}, {REVERSED}": {"what": HEADS, "how": ACTIVATION, "order": REVERSED},
    f"{HEADS}, {MAGNITUDE}": {"what": HEADS, "how": MAGNITUDE},
    f"{HEADS}, labels only": {"what": HEADS, "how": ACTIVATION, "weight": 0.0},
    f"{CHANNELS}, {ACTIVATION}": {"what": CHANNELS, "how": ACTIVATION},
    f"{NEURONS}, {ACTIVATION}": {"what": NEURONS, "how": ACTIVATION},
    f"{NEURONS}, {MAGNITUDE}": {"what": NEURONS, "how": MAGNITUDE},
    **{
        f"{what}, random {n}": {"what": what, "how": "random", "draw": n, "as cut": n not in DISTILLED_DRAWS}
        for what in (HEADS, CHANNELS, NEURONS)
        for n in DRAWS
    },
    f"{BOTH}, {ACTIVATION}": {"what": BOTH, "how": ACTIVATION},
    f"{BOTH}, scratch, labels": {"what": BOTH, "how": ACTIVATION, "scratch": True, "weight": 0.0},
    f"{BOTH}, scratch, teacher": {"what": BOTH, "how": ACTIVATION, "scratch": True},
    f"{DEPTH}, {ACTIVATION}": {"what": DEPTH, "how": ACTIVATION},
    **{
        f"{what}, {whose}": {"what": what, "how": ACTIVATION, "whose": whose}
        for what in (HEADS, CHANNELS, NEURONS)
        for whose in (TALLY, ALONE)
    },
}
ARMS |= {
    name: {"what": what, "how": how, "as cut": True}
    for what in KINDS.values()
    for how in WAYS
    if (name := f"{what}, {how}") not in ARMS
}
QUICK = {
    name: arm | {"as cut": True}
    for name, arm in ARMS.items()
    if name == PARENT or (arm["what"] in KINDS.values() and "weight" not in arm)
}
"""Scores differ before distillation if at all, and one draw tells nothing: draws lie further apart than scores from their mean."""


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure one arm on the subject of a seed: parameters, loss as cut and after training, seconds of a forward pass."""
    torch.set_num_threads(1)
    parent = hybrid.subject(seed)
    found: dict[str, Any] = {"steps": 0, "samples": 0}
    if not arm["what"]:
        return found | figures(parent, "cut") | {"parameters": parameters(parent), "without B": without_state(parent)}
    if whose := arm.get("whose"):
        found["voted"] = tallied(seed)[whose][1]
    small = made(parent, arm, seed)
    if arm.get("scratch"):
        small = hybrid.fresh(seed + 1000, **{key: getattr(small.config, key) for key in hybrid.MODEL})
    found |= figures(small, "cut") | {"parameters": parameters(small)}
    if is_candidate(arm):
        found |= figures(small, VALIDATION, "validation")
    if arm.get("as cut"):
        return found
    return found | taught(small, seed, arm.get("weight", 1.0)) | speed(parent, small)


def is_candidate(arm: Mapping[str, Any]) -> bool:
    """Whether an arm is one of the ways that a default is chosen from."""
    return arm["what"] in KINDS.values() and not arm.keys() & {"order", "draw", "weight", "whose"}


def made(parent: nn.Module, arm: Mapping[str, Any], seed: int) -> nn.Module:
    """The parent, cut as an arm says."""
    axes, task, samples = axes_of(parent), load_task(TASK), hybrid.both("calibration")
    counts = COUNTS[arm["what"]]
    draw = seed * 100 + arm.get("draw", 0)
    order = arm.get("order", "")
    total = tallied(seed)[arm["whose"]][0] if "whose" in arm else calibrated(seed)
    chosen = choose(parent, axes, counts, samples, task, arm["how"], seed=draw, total=total)
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


def drawn(cells: Cells, what: str, figure: str) -> list[float]:
    """Mean over the random draws of a figure, by seed: those that have it, and the same of every seed."""
    draws = DISTILLED_DRAWS if figure.startswith("taught") else DRAWS
    each = [cells.of(f"{what}, random {n}", figure) for n in draws]
    return [fmean(values) for values in zip(*each, strict=True)]


def against_random(cells: Cells, what: str, how: str, figure: str) -> Claim:
    """An arm against the mean of the random draws, paired by seed."""
    from dictpfl.client.compress.verdicts import compared

    arm = f"{what}, {how}"
    return Claim(
        figure,
        arm,
        f"{what}, random ({len(DISTILLED_DRAWS if figure == 'taught' else DRAWS)} draws)",
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
        found.append(cells.claim(figure, f"{DEPTH}, activation", f"{NEURONS}, activation", higher=False))
        found += shared(cells, figure)
    found.append(cells.claim("taught", f"{HEADS}, activation", f"{HEADS}, labels only", higher=False))
    found += [
        cells.claim("taught", f"{BOTH}, activation", f"{BOTH}, scratch, {how}", higher=False)
        for how in ("labels", "teacher")
    ]
    return found


def shared(cells: Cells, figure: str) -> list[Claim]:
    """Importance from the tally of three institutions against that from the most skewed one alone."""
    return [
        cells.claim(figure, f"{what}, {TALLY}", f"{what}, {ALONE}", higher=False) for what in (HEADS, CHANNELS, NEURONS)
    ]


def best(cells: Cells) -> dict[str, str]:
    """The way to score each kind of units that its default should be, by texts that no claim is made on.

    The published one, unless another's loss as cut is shown to be lower; of several, the lowest mean.
    """
    chosen = {}
    for kind, what in KINDS.items():
        own = f"{what}, {ACTIVATION}"
        better = [
            how
            for how in WAYS
            if how != ACTIVATION and cells.claim(VALIDATION, f"{what}, {how}", own, higher=False).verdict == BETTER
        ]
        means = {how: fmean(cells.of(f"{what}, {how}", VALIDATION)) for how in better}
        chosen[kind] = min(means, key=lambda how: means[how]) if means else ACTIVATION
    return chosen


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


def nulls(judged: Sequence[Claim]) -> str:
    """Say of which scores no difference to chance is shown after distillation, and of which one is."""
    after = [claim for claim in judged if claim.figure == "taught" and "random" in claim.rival]
    level = [claim.arm for claim in after if claim.verdict == LEVEL]
    shown = [f"{claim.arm}: {claim.interval} nats, {claim.verdict}" for claim in after if claim.verdict != LEVEL]
    said = f"**No difference shown after distillation between chance and: {'; '.join(level)}.** " if level else ""
    return said + (f"Shown: {'; '.join(shown)}." if shown else "") + "\n\n"


def page(cells: Cells) -> str:
    """The Markdown page."""
    rows = [[arm, f"{cells.of(arm, 'parameters')[0]:,}", *(_mean(cells, arm, f) for f in
            ("cut messages", "cut Python", "cut", "taught messages", "taught Python", "taught", "faster"))] for arm in cells.study.arms]  # fmt: skip
    judged = claims(cells)
    null = nulls(judged)
    able = requirements(cells)[0]
    state = (
        ""
        if able.met
        else "The subject's state matters too little to show anything of groups, and nothing is claimed of them. "
    )
    return f"""# Cutting a hybrid

{null}{state}A Nemotron-H of {cells.of(PARENT, "parameters")[0]:,} parameters, pretrained here for {hybrid.STEPS} steps; {len(cells.study.seeds)} subjects. Half of the heads of
all mixers, half of the channels, half of the neurons, or the two least important blocks go. Loss in nats a token on unseen texts, mean ±
standard deviation over subjects: as cut, and after {DISTILLED} steps of distillation, the same for every arm, counted; of five random draws two are distilled. *Faster*: CPU time of the
parent's forward pass over the arm's, 4 sequences of {hybrid.LENGTH}.

{markdown_table(["arm", "parameters", "messages", "Python", "as cut", "messages, taught", "Python, taught", "taught", "faster"], rows)}

{preamble(cells.measured(), "python benchmarks/minitron.py")}

## Verdicts

{claims_table(judged)}

"Better" is a lower loss; *cut* is before training, *taught* after it.

## One institution's texts against all

Messages of all topics, divided among three institutions (Dirichlet 0.3): what stays is decided by their tally
({_voted(cells, TALLY)} sequences), or by the institution whose topics are the most skewed, alone ({_voted(cells, ALONE)} sequences). The other arms
decide by both domains' calibration.

{claims_table([claim for figure in ("cut", "cut messages", "cut Python", "taught", "taught messages", "taught Python") for claim in shared(cells, figure)])}

## Defaults

Loss on texts for validation, as cut. A kind's default is the published way, `activation`, unless another is shown to be better there;
`ablation` was not tried, for it takes a pass over the samples a unit.

{defaults_table(cells)}

## Requirements

{requirement_lines(requirements(cells))}

Nothing of the paper's scale is repeated: the mechanics are exact, and its trends are looked for in small.

![loss against size](minitron.svg)
"""


def defaults_table(cells: Cells) -> str:
    """Loss on the validation texts as cut, by kind and way; and the way that is to be the default."""
    rows = [
        [kind, *(_mean(cells, f"{what}, {how}", VALIDATION) for how in WAYS), best(cells)[kind]]
        for kind, what in KINDS.items()
    ]
    return markdown_table(["kind", *WAYS, "default"], rows)


def _voted(cells: Cells, whose: str) -> str:
    return " to ".join(f"{n}" for n in sorted({f(cells.of(f"{HEADS}, {whose}", "voted")) for f in (min, max)}))


def _mean(cells: Cells, arm: str, name: str) -> str:
    if any(name not in cells.found[arm, seed] for seed in cells.study.seeds):
        return "-"
    values = cells.of(arm, name)
    return spread(values, 3)


def draw(cells: Cells) -> Figure:
    """Loss against parameters, as cut and after distillation."""
    figure, plots = panels("as cut", f"after {DISTILLED} steps")
    for ax, name in zip(plots, ("cut", "taught"), strict=True):
        for number, what in enumerate(COUNTS):
            arms = [a for a in cells.study.arms if cells.study.arms[a]["what"] == what and "scratch" not in a]
            arms = [a for a in arms if all(name in cells.found[a, seed] for seed in cells.study.seeds)]
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
    asked = study_parser(__doc__, "one subject, scores as cut; writes nothing", cells=True).parse_args()
    chosen = QUICK if asked.quick else ARMS
    arms = {name: {**arm, "subject": hybrid.made_of()} for name, arm in chosen.items()}
    unequal = {PARENT: "nothing of it goes"} | {name: "as cut alone" for name, arm in arms.items() if arm.get("as cut")}
    study = Study("minitron", measure, arms, [1] if asked.quick else SEEDS, unequal, kept=not asked.quick)
    if asked.list:
        print(study.listed())
        return 0
    ahead(hybrid.subject, study.wanting, asked.jobs)
    cells = study.run(asked.jobs)
    if asked.quick:
        for arm in arms:
            print(f"{arm:28} {cells.of(arm, 'parameters')[0]:>10,} {cells.of(arm, 'cut')[0]:.4f}")
        for what in (HEADS, CHANNELS, NEURONS):
            draws = [cells.of(f"{what}, random {n}", "cut")[0] for n in DRAWS]
            print(f"{what}, random: {fmean(draws):.4f} ± {stdev(draws):.4f} over draws")
        return 0
    stated = requirements(cells)
    values = {"arms": {arm: {str(s): cells.found[arm, s] for s in study.seeds} for arm in arms}, "machine": cells.measured(),
              "claims": [c.to_json() for c in claims(cells)], "requirements": [r.to_json() for r in stated],
              "best": best(cells)}  # fmt: skip
    write_results("minitron", values, page(cells), draw(cells))
    print(requirement_lines(stated))
    print(f"BEST in client/compress/cutting/shrink.py should be {best(cells)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
