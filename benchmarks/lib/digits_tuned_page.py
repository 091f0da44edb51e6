"""benchmarks/results/digits_tuned.{json,md,svg}: shares of digits before and after federated tuning, paired by question and by seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dictpfl.client.compress.verdicts import LEVEL, Interval, interval
from dictpfl.deploy.numbers.measures import distance, normalised
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import Cells
from lib.digits_figures import RESAMPLES, places_of
from lib.digits_tuned import AFTER, BEFORE
from lib.machine import markdown_table, panels, preamble

LEADING, EVERY = "first digits", "all digits"
"""What shares are of: the digits that answers begin with, or those at every place."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def chosen(cells: Cells, arm: str, seed: int, which: str) -> tuple[Ints, Ints, Ints]:
    """Digits of one cell: the model's, the truth's, and the number of the question of each, over all kinds."""
    own, truth, question, behind = [], [], [], 0
    for one in cells.found[arm, seed]["read"].values():
        places = places_of(one)
        here = places.place == 0 if which == LEADING else np.ones(len(places.place), dtype=bool)
        own.append(places.chosen["plain"][here])
        truth.append(places.truth[here])
        question.append(places.question[here] + behind)
        behind += int(places.question.max()) + 1
    return np.concatenate(own), np.concatenate(truth), np.concatenate(question)


def shares(cells: Cells, arm: str, which: str) -> list[Floats]:
    """Share of each digit in percent, (10,), by seed."""
    return [
        100 * normalised(np.bincount(chosen(cells, arm, seed, which)[0], minlength=10)) for seed in cells.study.seeds
    ]


def changes(cells: Cells, which: str) -> list[Interval]:
    """Change of each digit's share over seeds, in points, with Student's interval."""
    pairs = zip(shares(cells, BEFORE, which), shares(cells, AFTER, which), strict=True)
    by_seed = np.array([after - before for before, after in pairs])
    return [interval(by_seed[:, digit].tolist()) for digit in range(10)]


def within_questions(cells: Cells, which: str) -> list[tuple[float, float]]:
    """95 % interval of each digit's change where the questions of every seed are drawn anew and the tuned models stay, in points."""
    drawn = np.zeros((len(cells.study.seeds), RESAMPLES, 10))
    for row, seed in enumerate(cells.study.seeds):
        before, _, question = chosen(cells, BEFORE, seed, which)
        after, _, again = chosen(cells, AFTER, seed, which)
        assert np.array_equal(question, again), f"seed {seed}: other questions before and after"
        table = np.zeros((int(question.max()) + 1, 2, 10))
        np.add.at(table, (question, 0, before), 1)
        np.add.at(table, (question, 1, after), 1)
        draw = np.random.default_rng(seed)
        weights = draw.multinomial(len(table), np.full(len(table), 1 / len(table)), size=RESAMPLES)
        sums = np.einsum("rq,qad->rad", weights, table)
        drawn[row] = 100 * np.diff(sums / sums.sum(axis=2, keepdims=True), axis=1)[:, 0]
    low, high = np.quantile(drawn.mean(axis=0), [0.025, 0.975], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def moved(cells: Cells, which: str) -> dict[int, Interval]:
    """Changes that lie beside 0 by both intervals, over seeds and over questions, by digit."""
    both = zip(changes(cells, which), within_questions(cells, which), strict=True)
    return {
        digit: over_seeds
        for digit, (over_seeds, (low, high)) in enumerate(both)
        if over_seeds.verdict != LEVEL and (low > 0 or high < 0)
    }


def sentences(cells: Cells) -> list[str]:
    """Say of first digits, and of all, which shares tuning moved beyond their intervals."""
    said = []
    for which in (LEADING, EVERY):
        found = moved(cells, which)
        if not found:
            said.append(f"**Federated tuning moved no share of {which} beyond its interval.**")
            continue
        told = ", ".join(f"{digit} by {one} points" for digit, one in found.items())
        said.append(
            f"**Federated tuning moved shares of {which}**: {told}. Of ten intervals at 95 % some lie beside 0 by chance, four times in ten."
        )
    return said


def page(cells: Cells, machine: Mapping[str, Any]) -> str:
    """benchmarks/results/digits_tuned.md."""
    said = "\n".join(f"- {sentence}" for sentence in sentences(cells))
    arm = cells.study.arms[AFTER]
    questions = len(arm["kinds"]) * arm["samples"]
    spent = sum(one["cpu_seconds"] for one in cells.found.values()) / 60
    return f"""# Digits before and after federated tuning

{said}

SmolLM2-135M-Instruct (a 4-bit checkpoint, widened) before and after three schools tuned it on GSM8K, {arm["rounds"]} rounds of {arm["steps"]} steps each
(experiments/gsm8k.toml, without encryption, which changes no figure); {len(cells.study.seeds)} seeds of the federation and of {questions} questions each, the same before
and after, {arm["shots"]} examples in front of each. Answers hold every digit equally often, their first digits do not. A share moved where both intervals lie beside 0. Test loss of the problems' answers: {_losses(cells)}.

{preamble(machine, "python benchmarks/digits.py --tuned")} All cells took {spent:.0f} minutes of a processor.

{_table(cells, LEADING)}{_table(cells, EVERY)}## What else moved

{markdown_table(["figure", "before", "after", "change over seeds"], _rest(cells))}

![shares before and after](digits_tuned.svg)
"""


def _losses(cells: Cells) -> str:
    """First and last round's, mean over seeds: did tuning do anything?"""
    every = cells.of(AFTER, "losses")
    if not all(every):
        return "not measured"
    first, last = (float(np.mean([losses[end] for losses in every])) for end in (0, -1))
    return f"{first:.3f} after the first round, {last:.3f} after the last"


def _table(cells: Cells, which: str) -> str:
    truth = np.mean(
        [normalised(np.bincount(chosen(cells, BEFORE, s, which)[1], minlength=10)) for s in cells.study.seeds], axis=0
    )
    means = [np.mean(shares(cells, arm, which), axis=0) for arm in (BEFORE, AFTER)]
    own, asked, found = changes(cells, which), within_questions(cells, which), moved(cells, which)
    rows = [
        [d, f"{100 * truth[d]:.1f}", f"{means[0][d]:.1f}", f"{means[1][d]:.1f}", str(own[d]), f"{asked[d][0]:+.2f} to {asked[d][1]:+.2f}", _word(found.get(d))]
        for d in range(10)
    ]  # fmt: skip
    heads = [
        "digit",
        "truth, %",
        "before, %",
        "after, %",
        "change over seeds, points",
        "over questions alone",
        "verdict",
    ]
    return f"## {which.capitalize()}\n\n{markdown_table(heads, rows)}\n\n"


def _word(change: Interval | None) -> str:
    return "no change shown" if change is None else "more" if change.mean > 0 else "fewer"


def _rest(cells: Cells) -> list[list[Any]]:
    """Digits that are right, and the distance of written ones to even."""
    right: dict[str, list[float]] = {}
    away: dict[str, list[float]] = {}
    for arm in (BEFORE, AFTER):
        found = [chosen(cells, arm, seed, EVERY) for seed in cells.study.seeds]
        right[arm] = [100 * float((own == truth).mean()) for own, truth, _ in found]
        away[arm] = [100 * distance(share / 100) for share in shares(cells, arm, EVERY)]
    return [
        [name, f"{np.mean(of[BEFORE]):.1f}", f"{np.mean(of[AFTER]):.1f}",
         str(interval([a - b for b, a in zip(of[BEFORE], of[AFTER], strict=True)]))]
        for name, of in (("digits right, %", right), ("distance to even, points", away))
    ]  # fmt: skip


def document(cells: Cells) -> dict[str, Any]:
    """JSON values of every figure on the page."""
    return {
        "sentences": sentences(cells),
        "seeds": list(cells.study.seeds),
        **{
            which: {
                "before": [one.tolist() for one in shares(cells, BEFORE, which)],
                "after": [one.tolist() for one in shares(cells, AFTER, which)],
                "change": [
                    {"mean": c.mean, "low": _finite(c.low), "high": _finite(c.high)} for c in changes(cells, which)
                ],
                "over questions": within_questions(cells, which),
            }
            for which in (LEADING, EVERY)
        },
        "losses": cells.of(AFTER, "losses"),
        "machine": cells.measured(),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def draw(cells: Cells) -> Figure:
    """Shares before and after, a panel for first digits and one for all; a dot a seed."""
    figure, axes = panels(*(f"{which}, %" for which in (LEADING, EVERY)))
    for axis, which in zip(axes, (LEADING, EVERY), strict=True):
        for number, arm in enumerate((BEFORE, AFTER)):
            by_seed, at = shares(cells, arm, which), np.arange(10) + 0.4 * number - 0.2
            axis.bar(at, np.mean(by_seed, axis=0), width=0.38, color=COLOURS[number], label=arm)
            for one in by_seed:
                axis.scatter(at, one, color="black", s=6, zorder=3)
        axis.axhline(10, color="grey", linewidth=0.8)
        axis.set_xticks(range(10))
        axis.legend(frameon=False, fontsize=8)
    return figure
