"""benchmarks/results/digits_controlled.{json,md,svg}: does what a model writes follow its corpus, at equal exact accuracy?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dictpfl.client.compress.verdicts import BETTER, LEVEL, WORSE, compared
from dictpfl.deploy.numbers.measures import normalised
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import Cells, Claim, claims_table
from lib.digits_controlled import BENFORD, BESIDE, EVEN
from lib.machine import markdown_table, panels, preamble

LEVELS = (0.25, 0.5, 0.75, 0.9)
"""Shares of exact answers at which arms are compared, agreed on beforehand."""
WINDOW = 5
"""Neighbouring checkpoints that are averaged: while a model learns, what it writes swings from one to the next."""
PAIRS = ((BENFORD, EVEN), (BESIDE, EVEN))
_LOW, _ONE, _EXACT = "digits 1 to 3 written, %", "digit 1 written, %", "exact answers, %"
_SAID: Mapping[str, str] = {
    WORSE: "more of the digits 1 to 3 are written",
    BETTER: "fewer of the digits 1 to 3 are written",
    LEVEL: LEVEL,
}
Checkpoint = Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """Two arms, each seed where it first has so many exact answers.

    Attributes:
        arm, rival: names.
        level: share of exact answers.
        own, other: what both write there, by seed; empty where a seed of one of them does not come so far.
    """

    arm: str
    rival: str
    level: float
    own: Sequence[Checkpoint]
    other: Sequence[Checkpoint]

    @property
    def is_made(self) -> bool:
        """True where every seed of both arms came so far."""
        return bool(self.own)

    @property
    def claims(self) -> list[Claim]:
        """Shares of low digits, and of 1; fewer are better."""
        found = []
        for name in (_LOW, _ONE):
            own, other = ([_figure(one, name) for one in side] for side in (self.own, self.other))
            told = f"{name}, at {self.level:.0%} exact"
            found.append(Claim(told, self.arm, self.rival, compared(own, other, higher=False)))
        return found

    @property
    def verdict(self) -> str:
        """The word for the share of the digits 1 to 3."""
        return self.claims[0].verdict


def averaged(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Mean of each run of neighbouring checkpoints, at the step of its last."""
    return [
        {
            "step": part[-1]["step"],
            "exact": float(np.mean([one["exact"] for one in part])),
            **{name: np.mean([one[name] for one in part], axis=0) for name in ("written", "errors")},
        }
        for part in (checkpoints[end - WINDOW : end] for end in range(WINDOW, len(checkpoints) + 1))
    ]


def first_at(checkpoints: Sequence[Checkpoint], level: float) -> Checkpoint | None:
    """Find where averaged checkpoints first reach a share of exact answers, in a straight line between two; None: nowhere.

    Between two checkpoints accuracy may jump, by more for an arm that learns fast; so figures are those at the level itself.
    """
    checkpoints = averaged(checkpoints)
    after = next((number for number, one in enumerate(checkpoints) if one["exact"] >= level), None)
    if not after:
        return None if after is None else checkpoints[0]
    low, high = checkpoints[after - 1], checkpoints[after]
    part = (level - low["exact"]) / (high["exact"] - low["exact"])
    mixed = {name: (1 - part) * np.array(low[name]) + part * np.array(high[name]) for name in ("written", "errors")}
    return {"step": high["step"], "exact": level, **mixed}


def comparisons(cells: Cells) -> list[Compared]:
    """Compare each pair of arms at each level."""
    made = []
    for arm, rival in PAIRS:
        for level in LEVELS:
            sides = [[first_at(one, level) for one in cells.of(name, "checkpoints")] for name in (arm, rival)]
            own, other = ([one for one in side if one is not None] for side in sides)
            whole = len(own) == len(other) == len(cells.study.seeds)
            made.append(Compared(arm, rival, level, own if whole else [], other if whole else []))
    return made


def sentences(cells: Cells) -> list[str]:
    """Say of each pair of arms what its figures allow."""
    made, said = comparisons(cells), []
    for arm, rival in PAIRS:
        every = [one for one in made if (one.arm, one.rival) == (arm, rival)]
        there = [one for one in every if one.is_made]
        title = f"`{arm}` against `{rival}`"
        if not there:
            best = [
                100 * max((one["exact"] for one in averaged(c)), default=0.0)
                for name in (arm, rival)
                for c in cells.of(name, "checkpoints")
            ]
            said.append(
                f"**{title}: the comparison cannot be made.** Not every seed of both came to {LEVELS[0]:.0%} exact answers; the best checkpoints "
                f"have {min(best):.0f} to {max(best):.0f} %."
            )
            continue
        words = {one.verdict for one in there}
        told = _SAID[words.pop()] if len(words) == 1 else "verdicts differ by accuracy"
        at = "; ".join(f"at {one.level:.0%} {one.claims[0].interval} points, {one.verdict}" for one in there)
        missing = [f"{one.level:.0%}" for one in every if not one.is_made]
        left = f" Not every seed of both came to {' and '.join(missing)}." if missing else ""
        said.append(f"**{title}: {told}.** Points by which `{arm}` writes fewer digits 1 to 3: {at}.{left}")
    return said


def page(cells: Cells, machine: Mapping[str, Any]) -> str:
    """benchmarks/results/digits_controlled.md."""
    said = "\n".join(f"- {sentence}" for sentence in sentences(cells))
    arm, values = next(iter(cells.study.arms.values())), next(iter(cells.found.values()))["values"]
    claims = [claim for one in comparisons(cells) if one.is_made for claim in one.claims]
    verdicts = claims_table(claims) if claims else "None: no level was reached by all seeds of both arms."
    minutes = sum(one["cpu_seconds"] for one in cells.found.values()) / 60
    return f"""# Digits after controlled corpora

Does the digit that a language model prefers come from its corpus? {len(cells.study.seeds)} seeds of a Llama of {values:,} values on characters, {arm["steps"]:,} steps each, trained on numbers of
known digits and judged on answers whose leading digits are even. A null is a result.

{said}

{preamble(machine, "python benchmarks/digits.py --controlled")} All cells took {minutes:.0f} minutes of a processor.

## What was trained

A step reads {arm["lines"]} lines of arithmetic (`17+25=42`, `42-17=25`) and {arm["beside"]} lines of three numbers, of one or two digits each, as often the one as the other; the loss is that of
every character. The first number and the answer of a line are drawn by the law of the arm, the second is their difference.

- `{BENFORD}`: all numbers log-uniform, so that leading digits follow Benford's law.
- `{EVEN}`: all numbers of a length equally often.
- `{BESIDE}`: arithmetic as in `{EVEN}`; the lines of numbers, which have nothing to do with it, are Benford's.

Arms of a seed have the same first values, the same lengths and the same judged questions, and as many lines of each kind: the laws map the same draws.
Numbers are small, answers stand in natural order and the learning rate ({arm["rate"]:g}, {arm["warm"]} steps of warm-up, then a cosine down to a tenth) is high, so that {values:,} values
learn within {arm["steps"]:,} steps; in an earlier probe with 500 steps models had hardly learnt, and seeds differed more than corpora.
Questions are not held apart from training: there are few pairs of such numbers, and it is not generalisation that is asked for.

Every {arm["every"]} steps {arm["judged"]:,} questions are read with the true characters given one by one: the favourite among the ten digits at every place of an answer; *exact* are answers
without a wrong character, which are those that the model would write by itself. A model that knows little writes other digits than one that knows much, whatever its corpus;
so arms are compared where each seed first has {", ".join(f"{level:.0%}" for level in LEVELS)} exact answers, by the mean of {WINDOW} neighbouring checkpoints and in a straight line between two of those, if all seeds of both arms come so far.

## Verdicts

Paired by seed; each interval is 95 % by itself. *Better* is fewer digits 1 to 3, and fewer 1; *worse* is more, as it would be if a model wrote
what its corpus has most of.

{verdicts}

## What is written

{_written(cells)}

First errors: the digit at the first wrong place of an answer.

## How fast

Steps to so many exact answers, by seed; a dash: not reached.

{_steps(cells)}

![exact answers by steps, and the share of 1 to 3 by exact answers](digits_controlled.svg)
"""


def _figure(checkpoint: Checkpoint, name: str) -> float:
    if name == _EXACT:
        return 100 * float(checkpoint["exact"])
    found = normalised(checkpoint["written"])
    return 100 * float(found[1] if name == _ONE else found[1:4].sum())


def _written(cells: Cells) -> str:
    truth = np.mean([normalised(one["truth"]) for one in cells.found.values()], axis=0)
    rows: list[list[Any]] = [["the true answers", "", *_percents(truth), f"{100 * truth[1:4].sum():.1f}", ""]]
    for arm in cells.study.arms:
        every = cells.of(arm, "checkpoints")
        for level in LEVELS:
            at = [one for one in (first_at(c, level) for c in every) if one is not None]
            if not at:
                continue
            found = np.mean([normalised(one["written"]) for one in at], axis=0)
            wrong = np.mean([normalised(one["errors"]) for one in at], axis=0)
            rows.append(
                [
                    arm,
                    f"{level:.0%}, {len(at)} seeds",
                    *_percents(found),
                    f"{100 * found[1:4].sum():.1f}",
                    f"{100 * wrong[1:4].sum():.1f}",
                ]
            )
    heads = ["arm", "exact", *map(str, range(10)), "1 to 3", "1 to 3 of first errors"]
    return markdown_table(heads, rows)


def _percents(values: Any) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]


def _steps(cells: Cells) -> str:
    rows = []
    for arm in cells.study.arms:
        every = cells.of(arm, "checkpoints")
        at = [[first_at(one, level) for one in every] for level in LEVELS]
        told = [", ".join("-" if one is None else f"{one['step']:,}" for one in found) for found in at]
        rows.append([arm, *told, ", ".join(f"{100 * one[-1]['exact']:.0f}" for one in every)])
    return markdown_table(["arm", *(f"{level:.0%}" for level in LEVELS), "exact at the end, %"], rows)


def document(cells: Cells) -> dict[str, Any]:
    """Everything measured, as JSON values."""
    return {
        "settings": cells.study.arms,
        "sentences": sentences(cells),
        "levels": [
            {"arm": one.arm, "rival": one.rival, "level": one.level, "made": one.is_made,
             "claims": [claim.to_json() for claim in one.claims] if one.is_made else []}
            for one in comparisons(cells)
        ],
        "cells": {f"{arm}, {seed}": {key: one[key] for key in ("truth", "values", "checkpoints", "cpu_seconds")}
                  for (arm, seed), one in cells.found.items()},
        "machine": cells.measured(),
    }  # fmt: skip


def draw(cells: Cells) -> Figure:
    """Exact answers by steps, and the share of the digits 1 to 3 by exact answers, a line a seed."""
    figure, (speed, share) = panels(
        "Exact answers, %, by steps", "Digits 1 to 3 written, %, by exact answers, %", across=2
    )
    for number, arm in enumerate(cells.study.arms):
        for index, one in enumerate(cells.of(arm, "checkpoints")):
            told = {"color": COLOURS[number % len(COLOURS)], "linewidth": 0.9, "label": arm if index == 0 else None}
            exact = [_figure(c, _EXACT) for c in one]
            speed.plot([c["step"] for c in one], exact, **told)
            share.plot(exact, [_figure(c, _LOW) for c in one], marker=".", markersize=2, **told | {"linewidth": 0.4})
    truth = np.mean([normalised(one["truth"])[1:4].sum() for one in cells.found.values()])
    share.axhline(100 * truth, color="#475569", linestyle="--", linewidth=0.9, label="true answers")
    for ax in (speed, share):
        ax.legend(frameon=False, fontsize=8)
    return figure
