"""Configurations that `benchmarks/tasks.py` runs, and the table of what they reach."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib.machine import markdown_table


@dataclass(frozen=True)
class Case:
    """One configuration.

    Attributes:
        name: of its file, without the ending.
        data: what it learns from.
    """

    name: str
    data: str


CASES = (
    Case("tumours", "tumours (scikit-learn), 569 rows"),
    Case("heart_metrics", "heart disease, four hospitals, 740 rows"),
    Case("labels", "three questions to each digit (scikit-learn), 1,797 images"),
    Case("grades", "diabetes in five grades (scikit-learn), 442 rows"),
    Case("progress", "diabetes in hundreds (scikit-learn), 442 rows"),
    Case("tcga", "breast cancer, six regions (TCGA), 1,088 patients"),
    Case("tcga_discrete", "breast cancer, six regions (TCGA), 1,088 patients"),
    Case("ink", "where a noisy digit's ink is (scikit-learn), 1,797 images"),
    Case("words", "ends of words in English without spaces, rows of 32 letters"),
    Case("letters", "the next letter of English without spaces"),
    Case("vowels", "English words from their consonants"),
    Case("halves", "which lower half belongs to an upper one, 1,797 digits"),
)


def table(cases: Mapping[str, list[dict[str, Any]]]) -> str:
    """One row a configuration."""
    rows = []
    for case in CASES:
        runs = cases.get(case.name)
        if not runs:
            continue
        reached, base = ([r["reached"] for r in runs], [r["baseline"]["figure"] for r in runs])
        gaps = [abs(r["area"]["pooled"] - r["area"]["scikit-learn"]) for r in runs if r["area"]]
        area = (
            f"{statistics.fmean(r['area']['pooled'] for r in runs if r['area']):.4f}, {max(gaps):.4f} off"
            if gaps
            else "-"
        )
        sent = statistics.fmean(r["bytes"]["up"] for r in runs)
        rows.append(
            (
                f"`{runs[0]['task']}`", f"{case.data} (`{case.name}`)", runs[0]["metric"], f"**{_mean(reached)}**", _mean(base), area,
                str(len(runs)), f"{sent / 1000:,.0f} kB",
            )
        )  # fmt: skip
    heads = (
        "task",
        "data (configuration)",
        "metric",
        "reached",
        "baseline",
        "pooled AUROC",
        "seeds",
        "sent by one institution",
    )
    return markdown_table(heads, rows)


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


NOTE = (
    "Test split, after the last round; mean ± standard deviation over seeds, which draw data split (but for the two published ones), W0 and training. "
    "All runs are complete federations under CKKS. The baseline is the best answer that looks at no sample; of `absolute error` and "
    "`classes apart` less is better. `pooled AUROC` is that of all institutions' validation samples together, from encrypted counts, and "
    "the most that it is off from scikit-learn's `roc_auc_score` on the pooled predictions, over seeds."
)
