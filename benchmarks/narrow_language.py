"""A small language model narrowed to Python: which way keeps it, and how fast messages come back (Michaud et al. 2025, section 4).

    python benchmarks/narrow_language.py --jobs 2     # 3 subjects, all arms, 1,000 steps before the cut; resumes cell by cell
    python benchmarks/narrow_language.py --list       # the cells, and whether they are there
    python benchmarks/narrow_language.py --quick      # one subject, few arms, four steps each; writes nothing

The subject is the hybrid of benchmarks/minitron.py, pretrained on messages and on Python. Three quarters of the neurons of every
feed-forward layer go, and half of the width. Every arm takes 1,000 steps on Python before the cut, under group lasso over neurons and width
where it has a penalty, and 200 after it: as many on as many sequences, counted. Then each learns messages anew, for 30, 100 and 300 steps,
beside the general model (ceiling) and the same small shape from scratch on Python alone (floor). Loss in nats a token on unseen texts.
A model of language has no classes, so that no linear probe stands beside. A null exits 0; 1 means that a number is missing, or that arms
were not equal. Every arm and subject is a cell, a line in benchmarks/results/narrow_language.jsonl; the model that is tuned and
not yet cut stands in `benchmarks/.cells`. Results: `benchmarks/results/narrow_language.{json,md,svg}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import nn

from dictpfl.client.compress.cutting import scores as cutting
from dictpfl.client.compress.cutting.axes import Axis, axes_of
from dictpfl.client.compress.cutting.cut import cut
from dictpfl.client.compress.distil import distil
from dictpfl.client.compress.narrow.phases import trained
from dictpfl.client.compress.narrow.relearn import Residual, verdicts
from dictpfl.client.compress.narrow.scoring import score
from dictpfl.client.compress.verdicts import compared
from dictpfl.client.data.samples import Samples
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import Trained, evaluate
from dictpfl.common.keeping import keep
from dictpfl.common.settings import Training
from dictpfl.deploy.reports.plots import COLOURS
from lib import hybrid
from lib.arms import Cells, Claim, Study, ahead, claims_table, spread, study_parser
from lib.federations import CELLS
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines, write_results

SKILL, DROPPED, TASK = "Python", "messages", "causal-lm"
SIZES: Mapping[str, int] = {"intermediate_size": 128, "hidden_size": 64}
CEILING, FLOOR, TAUGHT, UNCUT = "general model", "scratch", "scratch, teacher", "uncut"
LASSO = "lasso 2e-3"
DRAWS = range(1, 4)
ARMS: Mapping[str, Mapping[str, Any]] = {
    CEILING: {"way": ""},
    LASSO: {"way": "lasso", "penalty": 2e-3},
    "lasso 5e-4": {"way": "lasso", "penalty": 5e-4},
    "attribution": {"way": "attribution"},
    "attribution-abs": {"way": "attribution-abs"},
    "magnitude": {"way": "magnitude"},
    "activation": {"way": "activation"},
    **{f"random {n}": {"way": "random", "draw": n} for n in DRAWS},
    UNCUT: {"way": "uncut"},
    FLOOR: {"way": "scratch"},
    TAUGHT: {"way": "scratch", "teacher": True},
}
QUICK = (CEILING, LASSO, "attribution", "activation", FLOOR)
STEPS: Mapping[str, Any] = {"before": 1000, "after": 200, "relearn": [30, 100, 300]}
FEW: Mapping[str, Any] = {"before": 4, "after": 2, "relearn": [2]}
LEAST = 0.1
"""Nats between ceiling and floor below which no residual is stated."""
_SCORED = 96


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure one arm on the subject of a seed: both domains right after the cut and after recovery, then messages as they come back."""
    torch.set_num_threads(1)
    general, found = hybrid.subject(seed), {"steps": 0, "samples": 0}
    small = model = general
    if arm["way"]:
        small, done = narrowed(general, arm, seed)
        model, last = trained(small, skill(), load_task(TASK), training(arm["after"]), seed + 1)
        found = {"steps": done.steps + last.steps, "samples": done.samples_seen + last.samples_seen}
    lost, task = hybrid.tokens()[DROPPED]["train"], load_task(TASK)
    back = {n: trained(model, lost, task, training(n), seed + 2)[0] for n in arm["relearn"]}
    return {
        **found,
        "parameters": sum(p.numel() for p in model.parameters()),
        "after": loss(small, SKILL),
        "python": loss(model, SKILL),
        "messages": loss(model, DROPPED),
        "relearnt": {str(n): loss(one, DROPPED) for n, one in back.items()},
        "python relearnt": {str(n): loss(one, SKILL) for n, one in back.items()},
    }


def narrowed(general: nn.Module, arm: Mapping[str, Any], seed: int) -> tuple[nn.Module, Trained]:
    """Take the steps before the cut, and cut; the model, and what was counted."""
    axes = {n: a for n, a in axes_of(general).items() if a.setting in SIZES}
    before, task = training(arm["before"]), load_task(TASK)
    if arm["way"] == "scratch":
        start = hybrid.fresh(seed + 1000, **SIZES)
        if not arm.get("teacher"):
            return trained(start, skill(), task, before, seed)
        return distil(start, tuned(seed, arm["before"])[0], skill(), before, seed=seed)
    if arm["way"] == "lasso":
        model, done = trained(general, skill(), task, before, seed, tuple(axes.values()), arm["penalty"])
    else:
        model, done = tuned(seed, arm["before"])
    if arm["way"] == "uncut":
        return model, done
    how = "magnitude" if arm["way"] == "lasso" else arm["way"]
    kept = {
        name: keep(scored(model, axis, how, seed * 100 + arm.get("draw", 0)), axis.group, SIZES[axis.setting])
        for name, axis in axes.items()
    }
    return cut(model, kept).eval(), done


def scored(model: nn.Module, axis: Axis, how: str, seed: int) -> np.ndarray[Any, Any]:
    """Scores of units on a few sequences of Python. Width is read behind every norm, for it leads into no single weight."""
    few = skill().take(np.random.default_rng(seed // 100).permutation(len(skill()))[:_SCORED])
    if how == "activation" and axis.kind == "width":
        return cutting.score(model, axis, few, load_task(TASK), how)
    return score(model, axis, few, load_task(TASK), how, seed)


def tuned(seed: int, steps: int) -> tuple[nn.Module, Trained]:
    """The general model after plain steps on Python, which all arms without a penalty begin with; made once, with its counts."""
    name = f"narrow-language-{seed}-{steps}-float32-{hybrid.made_of()}"
    counts = CELLS / f"{name}.json"

    def make() -> nn.Module:
        model, done = trained(hybrid.subject(seed), skill(), load_task(TASK), training(steps), seed)
        CELLS.mkdir(exist_ok=True)
        counts.write_text(json.dumps([done.samples_seen, done.loss_sum, done.steps]))
        return model

    model = hybrid.stored(name, hybrid.fresh(seed), make)
    return model, Trained(*json.loads(counts.read_bytes()))


def training(steps: int) -> Training:
    """Settings of every phase: half of the rate that the subject was pretrained at, in float32, which was the faster where it was measured."""
    changes = {
        "steps": steps,
        "learning_rate": 1e-3,
        "dense_learning_rate": 0.0,
        "warmup_steps": 10,
        "autocast": "none",
    }
    return hybrid.TRAINING.model_copy(update=changes)


def skill() -> Samples:
    """Sequences of Python to train on."""
    return hybrid.tokens()[SKILL]["train"]


def loss(model: nn.Module, domain: str) -> float:
    """Loss on a domain's unseen texts, nats a token."""
    found = evaluate(model, hybrid.tokens()[domain]["test"], load_task(TASK))
    return found.loss_sum / found.count


def residuals(cells: Cells) -> dict[str, dict[int, Residual]]:
    """Place every arm between floor and ceiling at each number of steps; larger is better, so losses are turned round."""
    curves = {
        arm: [{int(n): -value for n, value in one.items()} for one in cells.of(arm, "relearnt")]
        for arm in cells.study.arms
    }
    return verdicts(curves, CEILING, FLOOR, LEAST)


def cut_arms(cells: Cells) -> list[str]:
    """Arms that cut a model which knew Python."""
    return [arm for arm in cells.study.arms if arm not in (CEILING, UNCUT, FLOOR, TAUGHT)]


def claims(cells: Cells) -> list[Claim]:
    """Compare what is kept, with scratch and with random draws; and what comes back, with attribution."""
    last = str(max(int(n) for n in cells.of(CEILING, "relearnt")[0]))
    for one in cells.found.values():
        one["messages relearnt"] = one["relearnt"][last]
    chosen = cut_arms(cells)
    found = [cells.claim("python", arm, FLOOR, higher=False) for arm in (*chosen, TAUGHT) if arm in cells.study.arms]
    draws = [arm for arm in chosen if arm.startswith("random")]
    for figure in ("after", "python") if draws else ():
        drawn = [fmean(values) for values in zip(*(cells.of(arm, figure) for arm in draws), strict=True)]
        rival = f"random ({len(draws)} draws)"
        found += [
            Claim(figure, arm, rival, compared(cells.of(arm, figure), drawn, higher=False))
            for arm in chosen
            if arm not in draws
        ]
    found += [cells.claim("messages relearnt", arm, "attribution") for arm in chosen if arm != "attribution"]
    return found


def requirements(cells: Cells) -> list[Requirement]:
    """Judge what was asked beforehand: a cut model beats the same shape from scratch on Python at equal steps."""
    means = {arm: fmean(cells.of(arm, "python")) for arm in cut_arms(cells)}
    best = min(means, key=lambda arm: means[arm])
    lead = fmean(cells.of(FLOOR, "python")) - means[best]
    promise = f"a cut model ({best}, the best of {len(means)}) better than scratch on Python"
    told = sum(by[max(by)].interval is not None for by in residuals(cells).values())
    return [
        Requirement(promise, "at least", 0.3, lead, "nats"),
        Requirement(
            "arms between ceiling and floor with a verdict of the audit", "at least", len(cells.study.arms) - 2, told
        ),
    ]


def page(cells: Cells) -> str:
    """The Markdown page."""
    placed, counted = residuals(cells), cells.found[FLOOR, cells.study.seeds[0]]
    counts = list(counted["relearnt"])
    rows = [
        [arm, f"{cells.of(arm, 'parameters')[0]:,}", *(_mean(cells.of(arm, f)) for f in ("after", "python", "messages")),
         *(_mean([one[n] for one in cells.of(arm, "relearnt")]) for n in counts)]
        for arm in cells.study.arms
    ]  # fmt: skip
    heads = [
        "arm",
        "parameters",
        "Python, right after the cut",
        "Python",
        "messages",
        *(f"messages after {n}" for n in counts),
    ]
    judged = [[arm, *(_residual(by[int(n)]) for n in counts)] for arm, by in placed.items()]
    return f"""# A language model narrowed to Python

{_null(placed)}A hybrid of {cells.of(CEILING, "parameters")[0]:,} parameters, {len(cells.study.seeds)} subjects; every arm took {counted["steps"]:,} steps on
{counted["samples"]:,} sequences of Python in all, counted. {SIZES["intermediate_size"]} of 512 neurons a layer stay, and {SIZES["hidden_size"]} of 128 of the width. Loss in
nats a token on unseen texts, mean ± standard deviation over subjects. *Right after the cut*: before recovery. *Messages after n*: n
steps of relearning.

{markdown_table(heads, rows)}

{preamble(cells.measured(), "python benchmarks/narrow_language.py")}

## What is left of the messages

(arm - scratch) / (general model - scratch), with its 95 % interval over subjects: 0 is a model that never had them, 1 the general one, each
trained on messages for as many steps. Harder to relearn is not erased.

{markdown_table(["arm", *(f"{n} steps" for n in counts)], judged)}

## Verdicts

{claims_table(claims(cells))}

"Better" is a lower loss on Python; of relearnt messages it is a higher one: less came back.

## Requirements

{requirement_lines(requirements(cells))}

![Python kept, and messages coming back](narrow_language.svg)
"""


def _null(placed: Mapping[str, Mapping[int, Residual]]) -> str:
    """Say it first where the audit finds the messages in every model that was cut."""
    cut_ = [by for arm, by in placed.items() if arm not in (UNCUT, TAUGHT)]
    there = all(by[max(by)].verdict == "still there" for by in cut_)
    return (
        "**Nothing is harder to relearn: the messages are still there in every model that was cut.** " if there else ""
    )


def _mean(values: Sequence[float]) -> str:
    return spread(values, 3)


def _residual(found: Residual) -> str:
    i = found.interval
    return found.verdict if i is None else f"{i.mean:.2f} ({i.low:.2f} to {i.high:.2f}): {found.verdict}"


def draw(cells: Cells) -> Figure:
    """The kept skill by arm, and the dropped one as it comes back."""
    figure, (left, right) = panels("kept and left", "messages coming back")
    for number, arm in enumerate(cells.study.arms):
        colour, marker = COLOURS[number % len(COLOURS)], "osD^v"[number // len(COLOURS) % 5]
        curve = {int(n): fmean(one[n] for one in cells.of(arm, "relearnt")) for n in cells.of(arm, "relearnt")[0]}
        kept = fmean(cells.of(arm, "python"))
        left.scatter([kept], [curve[max(curve)]], color=colour, marker=marker)
        right.plot([*curve], [*curve.values()], color=colour, marker=marker, label=arm)
    left.set_xlabel("Python, nats (kept)")
    left.set_ylabel("messages relearnt, nats (dropped)")
    right.set_xscale("log")
    right.set_xticks([*curve], [str(n) for n in curve], minor=False)
    right.xaxis.set_minor_locator(NullLocator())
    right.set_xlabel("steps on messages")
    right.set_ylabel("messages, nats")
    right.legend(frameon=False, fontsize=6)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what has no cell yet, and write the page unless it was a look."""
    asked = study_parser(__doc__, "one subject, few arms and steps; writes nothing", cells=True).parse_args(arguments)
    seeds, names, steps = ((1,), QUICK, FEW) if asked.quick else ((1, 2, 3), tuple(ARMS), STEPS)
    arms = {name: {**ARMS[name], **steps, "sizes": dict(SIZES), "subject": hybrid.made_of()} for name in names}
    unequal = {CEILING: "it is not narrowed"}
    study = Study("narrow_language", measure, arms, seeds, unequal, kept=not asked.quick)
    if asked.list:
        print(study.listed())
        return 0
    ahead(partial(tuned, steps=steps["before"]), study.wanting, asked.jobs)
    cells = study.run(asked.jobs)
    text = page(cells)
    print(text)
    if not asked.quick:
        placed = {arm: {str(n): _residual(one) for n, one in by.items()} for arm, by in residuals(cells).items()}
        values = {"cells": cells.named(), "residuals": placed,
                  "claims": [c.to_json() for c in claims(cells)], "requirements": [r.to_json() for r in requirements(cells)],
                  "machine": cells.measured()}  # fmt: skip
        write_results("narrow_language", values, text, draw(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
