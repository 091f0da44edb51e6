"""benchmarks/results/clinical.md and .svg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dictpfl.client.compress.verdicts import LEVEL, interval
from dictpfl.deploy.reports.plots import COLOURS
from lib.clinical.cells import FULL, NETWORKS, OURS
from lib.clinical.published import LOCAL, POOLED, POOLED_ALIKE, PUBLISHED
from lib.federations import mean_and_spread
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines

TITLES = {
    "heart": "Heart disease, logistic regression, four hospitals: accuracy, %",
    "tcga": "TCGA-BRCA, linear Cox model, six regions: concordance index x 100",
    "heart_mlp": "Heart disease, network of two hidden layers: accuracy, %",
    "tcga_transformer": "TCGA-BRCA, small transformer: concordance index x 100",
}
Rows = Mapping[str, Any]


def mean_of(runs: Sequence[Rows]) -> tuple[float, float]:
    """Mean over seeds of the plain mean over centres, and its deviation."""
    return mean_and_spread([run["mean_of_groups"] for run in runs])


def table(name: str, found: Rows) -> str:
    """A workload's table: each method's mean over centres, each centre, all test rows together, bytes."""
    first = next(iter(found["runs"].values()))
    centres = list(first[0]["by_group"])
    heads = ["", "mean of centres", *centres, "all rows", "values sent", "kB up", "kB down", "FLamby", "plain twin"]
    rows = [_row(name, label, runs, centres, found) for label, runs in found["runs"].items()]
    if "clear" in found:
        for label in (POOLED, POOLED_ALIKE, LOCAL):
            if label not in found["clear"]:
                continue
            one = found["clear"][label]
            mean, spread = mean_and_spread(one["by_seed"])
            told = f"{label} ({one['centre']})" if "centre" in one else label
            rows.append([f"{told}, in clear, not federated", f"{mean:.1f} ± {spread:.1f}",
                         *(f"{one['by_group'][c]:.1f}" for c in centres), "-", "-", "-", "-", published(name, label), "-"])  # fmt: skip
    if name not in PUBLISHED:
        heads, rows = heads[:-2], [row[:-2] for row in rows]
    return markdown_table(heads, rows)


def _row(name: str, label: str, runs: Sequence[Rows], centres: Sequence[str], found: Rows) -> list[str]:
    mean, spread = mean_of(runs)
    each = [f"{np.mean([run['by_group'][centre] for run in runs]):.1f}" for centre in centres]
    sent = [f"{np.mean([run['bytes'][way] for run in runs]) / 1e3:,.1f}" for way in ("up", "down")]
    values = f"{np.mean([run['values']['sent'] for run in runs]):,.0f}"
    twin = "-"
    if label in found.get("clear", {}):
        twin = f"{np.mean(found['clear'][label]['by_seed']):.1f}"
    together = f"{np.mean([run['final'] for run in runs]):.1f}"
    return [
        label,
        f"{mean:.1f} ± {spread:.1f}",
        *each,
        together,
        values,
        *sent,
        published(name, label.split(",", maxsplit=1)[0]),
        twin,
    ]


def published(name: str, method: str) -> str:
    """FLamby's published figure and its deviation; "-": there is none."""
    row = PUBLISHED.get(name)
    if row is None or method not in row.figures:
        return "-"
    return f"{100 * row.figures[method]:.1f} ± {100 * row.spreads[method]:.1f}"


def written(report: Rows, needed: Sequence[Requirement]) -> str:
    """The page."""
    parts = report["workloads"]
    linear = "\n\n".join(
        f"## {TITLES[name]}\n\n{table(name, parts[name])}\n\n{_repeated(name, parts[name])}\n\n{_chosen(name, parts[name])}"
        for name in ("heart", "tcga")
    )
    networks = "\n\n".join(
        f"## {TITLES[name]}\n\n"
        + (f"{table(name, parts[name])}\n\n{_networks(parts[name])}" if name in parts else "Not measured yet.")
        for name in NETWORKS
    )
    return f"""# Hospitals

{preamble(report["machine"], "python benchmarks/clinical.py")}

Real centres, split as FLamby splits them; five seeds (42 to 46, as FLamby's); mean ± standard deviation over seeds of the plain mean over
centres after the last round, which is FLamby's figure. Every linear run, and every run of dictpfl, is a complete encrypted federation
(CKKS, 4 bits a value), with all training rows in training. Bytes are of one institution over the whole run. `FLamby`: the published
row. `plain twin`: the same rates in unencrypted numpy at full precision, other batches and W0: what encryption and 4 bits cost lies between
the two. Small centres have few test rows: 16 in Switzerland, of which 15 are ill; 11 in Canada, with one event.

{linear}

{networks}

## Requirements

{requirement_lines(needed)}

![every centre's own figure, by method](clinical.svg)
"""


def _repeated(name: str, found: Rows) -> str:
    again = ", ".join(
        f"{method} {np.mean(found['clear'][f'{method}, as FLamby']['by_seed']):.1f} (published {100 * PUBLISHED[name].figures[method]:.1f})"
        for method in PUBLISHED[name].rates
    )
    given = " and with ages as they are, in years" if name == "tcga" else ""
    scaled = (
        " The federations here take ages less 58, over 13, which anybody may know; unscaled, a step of 0.1 on years throws some seeds "
        "far off, FLamby's too."
        if name == "tcga"
        else ""
    )
    if name == "heart":
        scaled = (
            f" Pooled, FLamby standardises training rows by all rows and test rows by their centre's, which costs its pooled row what stands "
            f"between {np.mean(found['clear'][POOLED]['by_seed']):.1f} and {np.mean(found['clear'][POOLED_ALIKE]['by_seed']):.1f}: what "
            "pooling is worth is the latter."
        )
    return f"FLamby's algorithm repeated by the plain twin, at its rates{given}: {again}.{scaled}"


def _chosen(name: str, found: Rows) -> str:
    lines = []
    for method, one in found["tuning"].items():
        other, clear = one["by_centres"], found["clear"]
        lines.append(
            f"- {method}: {_told(one)}, validation {100 * one['validation']:.1f}"
            f"{'' if one['inside'] else ' (at an end of its grid)'}. By the plain mean over centres: {_told(other)}, which reaches "
            f"{np.mean(clear[f'{method}, by centres']['by_seed']):.1f} on the test rows in the plain twin."
        )
    tried = sum(one["settings_tried"] for one in found["tuning"].values())
    halved = " With two outputs in place of one, federations take half of these rates." if name == "heart" else ""
    what = "ill" if name == "heart" else "of which the event was seen"
    few = (
        " That is few to choose two rates by, and FedAdam's and FedYogi's choice shows it: FLamby's rates, published beforehand, reach more."
        if name == "tcga" and _loses(found)
        else ""
    )
    return (
        f"Rates were chosen among {tried} settings, each twice the one before it; a grid was extended until its best was not at an edge. Each setting was tried 20 times with "
        f"30 % of each centre's training rows held back, and judged by the mean weighted by samples, which is what a federation sees.{halved} A split holds {found['held']['rows']} rows back, {found['held']['events']} {what}.{few}\n\n"
        + "\n".join(lines)
    )


def _loses(found: Rows) -> bool:
    """Whether the chosen rates of both adaptive rules stay below FLamby's."""
    runs = found["runs"]
    return all(
        mean_of(runs[f"{m}, chosen"])[0] < mean_of(runs[f"{m}, FLamby's rates"])[0] for m in ("FedAdam", "FedYogi")
    )


def _told(rates: Rows) -> str:
    words = [f"rate {rates['rate']:.3g}"]
    if rates["rule"] != "average":
        words.append(f"server {rates['server']:.3g}")
    if rates["proximal"]:
        words.append(f"mu {rates['proximal']:.3g}")
    return ", ".join(words)


def _networks(found: Rows) -> str:
    runs, tuning = found["runs"], found["tuning"]
    full, ours = runs[FULL][0]["values"], runs[OURS][0]["values"]
    gaps = [b["mean_of_groups"] - a["mean_of_groups"] for a, b in zip(runs[FULL], runs[OURS], strict=True)]
    gap = interval(gaps)
    told = (
        "no difference to plaintext full training is shown"
        if gap.verdict == LEVEL
        else f"it is {gap.verdict} than plaintext full training"
    )
    bytes_of = {method: np.mean([sum(run["bytes"].values()) for run in runs[method]]) for method in (FULL, OURS)}
    tried = "\n".join(
        f"- {method}: {one['rate']:g} of " + ", ".join(f"{rate} ({figure:.1f})" for rate, figure in one["tried"].items())
        + ("" if one["inside"] else "; at an end of the grid")
        for method, one in tuning.items()
    )  # fmt: skip
    return (
        f"dictpfl shares {ours['shared']:,} of {full['model']:,} values with {100 * bytes_of[OURS] / bytes_of[FULL]:.1f} % of plaintext's bytes, though "
        f"encrypted; {told}: {gap} points, seed by seed. Plaintext sends float32 in clear.\n\nRates, by validation on 30 % of the training rows:\n\n{tried}"
    )


def plot(found: Rows) -> Figure:
    """Each centre's figure by method, a panel a workload."""
    figure, plots = panels(*(TITLES[name].split(":")[0] for name in found), across=2)
    for ax, (name, part) in zip(plots, found.items(), strict=True):
        runs = part["runs"]
        centres = list(next(iter(runs.values()))[0]["by_group"])
        width = 0.8 / len(runs)
        for place, (label, each) in enumerate(runs.items()):
            heights = [np.mean([run["by_group"][centre] for run in each]) for centre in centres]
            heights.append(mean_of(each)[0])
            where = np.arange(len(heights)) + place * width - 0.4 + width / 2
            ax.plot(where, heights, marker="o", ms=4, lw=0, label=label, color=COLOURS[place % len(COLOURS)])
        ax.set_xticks(range(len(centres) + 1), [*centres, "mean"], fontsize=8, rotation=20)
        ax.set_ylim(20, 102)
        ax.set_ylabel("%" if name.startswith("heart") else "concordance x 100")
        ax.legend(frameon=True, framealpha=0.8, edgecolor="none", fontsize=6, loc="lower left")
    return figure
