"""The page and the plot of benchmarks/ablations.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dictpfl.deploy.reports.plots import COLOURS
from lib.machine import markdown_table, panels, preamble

NOISE = 1.0
"""Points of accuracy within which two settings are not told apart, if their spread does not say more."""


def page(ablations: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """benchmarks/results/ablations.md."""
    parts = [_section(ablations[name], rows) for name, rows in result.items()]
    return f"""# The paper's ablations on digits

vit_tiny on digits, W0 pretrained on classes 0-4 of a public split, 20 rounds of 2 epochs, three institutions, r = 4, this
project's default pruning, encrypted: experiments/ablation_*.toml. Accuracy: test split, mean of the last three rounds, mean ± standard
deviation of the seeds. The paper's figures are of ViT-B/16 on Diabetic Retinopathy: which way they move can be compared, where they
stand cannot. A step "agrees" where it goes the same way as the paper's; steps of less than {NOISE:g} point, or than the spread of the
seeds, count as level, and one seed has no spread.

{chr(10).join(parts)}
![accuracy relative to the default setting](ablations.svg)
"""


def _section(ablation: Any, rows: Mapping[str, Any]) -> str:
    heads = ["", "accuracy, %", "values, % of the model", "MB of one institution", "paper, %", "paper, GB"]
    by_label = {point.label: point for point in ablation.points}
    body = [
        [label, f"{row['accuracy']:.2f}" + (f" ± {row['spread']:.2f}" if len(row["seeds"]) > 1 else ""),
         f"{row['share']:.2f}", f"{row['megabytes']:.2f}", *(_or_dash(v) for v in (by_label[label].accuracy, by_label[label].gigabytes))]
        for label, row in rows.items()
    ]  # fmt: skip
    seeds = sorted({seed for row in rows.values() for seed in row["seeds"]}, key=int)
    return f"""## {ablation.title[0].upper() + ablation.title[1:]} (paper: {ablation.source})

{markdown_table(heads, body)}

{" ".join(filter(None, [verdict(ablation, rows), ablation.reading]))}

{"Seeds " + ", ".join(seeds) if len(seeds) > 1 else "One seed"}.

{_facts([row["measured"] for row in rows.values()])}
"""


def _facts(measured: Sequence[Mapping[str, Any]]) -> str:
    """Where points come from, those of one commit in a line: machines were more and less busy meanwhile."""
    lines = []
    for commit in dict.fromkeys(facts["commit"] for facts in measured):
        own = [facts for facts in measured if facts["commit"] == commit]
        dates, loads = sorted({facts["date"] for facts in own}), sorted({float(facts["load"]) for facts in own})
        several = {
            "date": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
            "load": " to ".join(f"{one:g}" for one in dict.fromkeys((loads[0], loads[-1]))),
        }
        lines.append(preamble({**own[0], **several}, "python benchmarks/ablations.py"))
    return "\n".join(lines)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def verdict(ablation: Any, rows: Mapping[str, Any]) -> str:
    """Every step that the paper reports, and whether this project's goes the same way.

    A step of less than `NOISE` points, or than the two spreads, counts as level.
    """
    reported = {point.label: point.accuracy for point in ablation.points}
    told: dict[str, list[str]] = {}
    for point in ablation.points:
        at = point.against or ablation.default
        if at == point.label or {at, point.label} - rows.keys() or None in (reported[at], point.accuracy):
            continue
        row, base = rows[point.label], rows[at]
        ours, theirs = row["accuracy"] - base["accuracy"], point.accuracy - reported[at]
        noise = max(NOISE, row["spread"], base["spread"])
        word = "agrees" if _way(ours, noise) == _way(theirs, NOISE) else "differs"
        told.setdefault(at, []).append(f"{point.label}: {ours:+.1f} points here, {theirs:+.1f} in the paper ({word})")
    return " ".join(f"Against {at}: {'; '.join(steps)}." for at, steps in told.items())


def _way(step: float, noise: float) -> int:
    return 0 if abs(step) < noise else 1 if step > 0 else -1


def draw(ablations: Mapping[str, Any], result: Mapping[str, Any]) -> Figure:
    """Points of accuracy above or below the default setting, ours and the paper's."""
    figure, plots = panels(*result, across=3)
    for ax, (name, rows) in zip(plots, result.items(), strict=True):
        _panel(ax, ablations[name], rows)
    return figure


def _panel(ax: Axes, ablation: Any, rows: Mapping[str, Any]) -> None:
    points = [p for p in ablation.points if p.label in rows and (p.against or ablation.default) in rows]
    at = [p.against or ablation.default for p in points]
    labels = [p.label for p in points]
    heights = [rows[label]["accuracy"] - rows[base]["accuracy"] for label, base in zip(labels, at, strict=True)]
    is_line = len(set(at)) == 1
    ax.errorbar(range(len(labels)), heights, yerr=[rows[label]["spread"] for label in labels], color=COLOURS[0], marker="o",
                linestyle="-" if is_line else "", capsize=3, label="here: vit_tiny, digits")  # fmt: skip
    reported = {p.label: p.accuracy for p in ablation.points}
    paper = [(x, p.accuracy - reported[base]) for x, (p, base) in enumerate(zip(points, at, strict=True))
             if p.accuracy is not None and reported[base] is not None]  # fmt: skip
    if paper:
        ax.plot(*zip(*paper, strict=True), color=COLOURS[1], marker="D", mfc="white", linestyle="--" if is_line else "",
                label="the paper's: ViT-B/16, retinopathy")  # fmt: skip
    ax.axhline(0, color="#94a3b8", lw=0.8)
    ax.set_xticks(range(len(labels)), labels, rotation=0 if is_line else 60, fontsize=8)
    ax.set_xlabel(ablation.title, fontsize=9)
    ax.set_ylabel(f"points against {ablation.default}" if is_line else "points against accumulate", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
