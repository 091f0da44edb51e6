"""Zeros by influence in a language model: SmolLM2 on tales, arms at equal numbers of zeros (`layerif.py --language`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dictpfl.client.compress.influence.layers import layer_influence
from dictpfl.client.compress.influence.shares import BY_SCORES
from dictpfl.client.compress.sparse.prune import prune
from dictpfl.client.compress.sparse.spectra import BY_WEIGHTS
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import SAMPLES, STEPS, Cells, Claim, Study, ahead, claims_table, spread
from lib.lines import Lines
from lib.machine import (
    RESULTS,
    ROOT,
    Requirement,
    markdown_table,
    panels,
    preamble,
    requirement_lines,
    threads,
    write_results,
)

WAYS = ("uniform", *BY_SCORES, *BY_WEIGHTS)
SPARSITIES, METHODS = (50, 60, 70), ("wanda", "magnitude", "sparsegpt")
TRAINED, HELD, MEASURED, TOKENS = 64, 32, 40, 128
TASK = "causal-lm"
_SIZES = {
    "sparsities": SPARSITIES,
    "methods": METHODS,
    "trained": TRAINED,
    "held": HELD,
    "measured": MEASURED,
    "tokens": TOKENS,
}
"""What a cell depends on besides its way: one of other sizes is measured anew."""


@cache
def _subject(seed: int) -> tuple[torch.nn.Module, Samples, Samples, Samples]:
    """Model, and passages of whole tales to decide by, to validate on and to measure on, drawn by seed."""
    torch.set_num_threads(threads())
    path = ROOT / "experiments" / "lua_tales.toml"
    named = {
        key: str(ROOT / "data" / value)
        for key, value in {"data.path": "tales.parquet", "data.options.tokenizer": "smollm2"}.items()
    }
    config = FederationConfig.load(
        path, named | {"data.options.max_tokens": TOKENS, "model.source": f"transformers:{ROOT / 'data' / 'smollm2'}"}
    )
    tales = load_dataset(config.data, 1)
    assert tales.splits is not None, "the tales say what each passage is for"
    draw, parts = np.random.default_rng(seed), []
    for mark, count in (("train", TRAINED), ("validation", HELD), ("test", MEASURED)):
        rows = np.flatnonzero(tales.splits == mark)
        parts.append(tales.samples.take(np.sort(draw.permutation(rows)[:count])))
    model = build_model(config.model, tales.sample_shape, tales.outputs, seed)
    return model, parts[0], parts[1], parts[2]


@cache
def _scores(seed: int) -> dict[str, dict[str, float]]:
    """Influence and gradient norms of each block; read where an earlier run left them, for they take minutes."""
    lines, key = Lines(RESULTS / "layerif_language.jsonl"), f"layerif_language/scores-{seed}-{TRAINED}-{HELD}-{TOKENS}"
    if lines.get(key) is None:
        model, training, validation, _ = _subject(seed)
        found = layer_influence(model, training, validation, load_task(TASK))
        lines.put(key, {"influence": found.scores, "gradient": found.gradients})
    made: dict[str, dict[str, float]] | None = lines.get(key)
    assert made is not None, "it was put there"
    return made


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Loss a token on held-out passages, zeros divided one way, by every method and sparsity."""
    model, training, _, test = _subject(seed)
    task, found = load_task(TASK), {STEPS: 0, SAMPLES: len(training)}
    for method in METHODS:
        for percent in SPARSITIES:
            made = prune(
                model, training, task, percent / 100, method, allocate=arm["way"], seed=seed,
                scores=_scores(seed) if arm["way"] in BY_SCORES else None,
            )  # fmt: skip
            reached = evaluate(made.model, test, task)
            found[f"{method}, {percent} %"] = reached.loss_sum / reached.count
            found[f"kept at {method}, {percent} %"] = made.masks.kept
    return found


def claims(cells: Cells) -> list[Claim]:
    """LayerIF against every other way; a lower loss is better."""
    figures = [f"{method}, {percent} %" for method in METHODS for percent in SPARSITIES]
    return [
        cells.claim(figure, "layerif", rival, higher=False)
        for figure in figures
        for rival in WAYS
        if rival != "layerif"
    ]


def requirements(cells: Cells) -> list[Requirement]:
    """Gains over uniform, random and reversed, all above 0 with their intervals."""
    return [
        Requirement(f"{c.figure}: lower end of layerif against {c.rival}", "above", 0.0, c.interval.low, "nats")
        for c in claims(cells)
        if c.rival in ("uniform", "random", "reversed")
    ]


def page(cells: Cells) -> str:
    """benchmarks/results/layerif_language.md."""
    figures = [f"{method}, {percent} %" for method in METHODS for percent in SPARSITIES]
    for figure in figures:
        kept = {one[f"kept at {figure}"] for one in cells.found.values()}
        assert len(kept) == 1, f"unequal numbers of entries stayed: {figure}: {kept}"
    made = claims(cells)
    won = [
        f
        for f in figures
        if all(c.verdict == "better" for c in made if c.figure == f and c.rival in ("uniform", "random", "reversed"))
    ]
    lost = [f for f in figures if any(c.verdict == "worse" for c in made if c.figure == f and c.rival == "reversed")]
    first = (
        f"Dividing zeros by influence helped ({', '.join(won)})."
        if won
        else "Dividing zeros by influence was not shown to help."
    )
    turned = f" The scores turned round were better ({', '.join(lost)})." if lost else ""
    rows = [[way, *(_mean(cells, way, f) for f in figures)] for way in WAYS]
    return f"""# Zeros of a language model, divided by influence

{first}{turned}

SmolLM2-135M-Instruct (a 4-bit checkpoint, widened) on tales: loss in nats a token on {MEASURED} held-out passages of {TOKENS} tokens, no retraining; {TRAINED} passages to
decide by and {HELD} to validate on, {len(cells.study.seeds)} draws. Exactly as many entries stay in every arm. Scores by the exact solver.

{markdown_table(["divided", *figures], rows)}

{claims_table(made)}

{preamble(cells.measured(), "python benchmarks/layerif.py --language")}

## Requirements

{requirement_lines(requirements(cells))}

![loss by way](layerif_language.svg)
"""


def _mean(cells: Cells, way: str, name: str) -> str:
    values = cells.of(way, name)
    return spread(values, 3)


def draw(cells: Cells) -> Figure:
    """Loss by sparsity, a line a way, a panel a method."""
    figure, axes = panels(*(f"{method}: nats a token" for method in METHODS))
    for axis, method in zip(axes, METHODS, strict=True):
        for number, way in enumerate(WAYS):
            axis.plot(
                SPARSITIES,
                [fmean(cells.of(way, f"{method}, {p} %")) for p in SPARSITIES],
                color=COLOURS[number],
                marker="o",
                label=way,
            )
        axis.set_xlabel("zeros, %")
        axis.legend(frameon=False, fontsize=8)
    return figure


def run(seeds: Sequence[int], jobs: int, *, quick: bool) -> None:
    """Measure, print, and write unless it was a look."""
    study = Study("layerif_language", measure, {way: {"way": way, **_SIZES} for way in WAYS}, seeds, kept=not quick)
    ahead(_scores, study.wanting, jobs)
    cells = study.run(jobs)
    text = page(cells)
    print(text)
    if quick:
        return
    figures = {"cells": cells.named(),
               "claims": [c.to_json() for c in claims(cells)], "requirements": [r.to_json() for r in requirements(cells)]}  # fmt: skip
    write_results("layerif_language", figures, text, draw(cells))
