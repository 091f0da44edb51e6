"""Real clips spliced at known frames: does DySeg find the cuts, and how well do kept tokens cover the rest (`fastvid.py --real`)?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dictpfl.client.data.images import fitting
from dictpfl.client.data.videos import BY_AV, BY_PILLOW, images_of
from dictpfl.client.model.tokens.seam import Frames, make_reducer
from dictpfl.client.model.tokens.segments import segments
from dictpfl.common.settings import Tokens
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import SAMPLES, STEPS, Cells, Study, spread
from lib.machine import ROOT, Requirement, markdown_table, panels, preamble, requirement_lines, write_results

FOLDER = ROOT / "data" / "clips"
ENCODER = ROOT / "data" / "dinov2_s"
SPLICES, PIECES, FRAMES, SIDE, READ = 50, 3, 24, 8, 96
KEEPS = (0.1, 0.25)
PIXELS, ENCODED = "pixels", "DINOv2-S"
RULES: Mapping[str, Mapping[str, Any]] = {
    "c = 8, tau = 0.9": {"c": 8, "tau": 0.9},
    "c = 8 alone": {"c": 8, "tau": -2.0},
    "c = 3 alone": {"c": 3, "tau": -2.0},
    "tau = 0.9 alone": {"c": 1, "tau": 0.9},
}
REDUCERS = ("fastvid", "dtm", "salient", "grid", "frames", "random", "tome")


def sources(folder: Path) -> list[Path]:
    """Clips that are spliced, those of a folder.

    Raises:
        FileNotFoundError: fewer than two; says how to have some.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in BY_AV | BY_PILLOW)
    if len(found) < 2:
        raise FileNotFoundError(
            f"{folder} holds {len(found)} clips: python experiments/fetch.py --only clips, and pip install 'dictpfl[video]'"
        )
    return found


@cache
def _read(features: str, folder: Path) -> list[tuple[Tensor, Tensor]]:
    """For each clip its frames' features (READ, E) and tokens (READ, places, D)."""
    torch.set_num_threads(1)
    found = []
    for path in sources(folder):
        images = images_of(path, READ)
        if features == ENCODED:
            found.append(_encoded(images))
            continue
        fit = fitting({"size": 8 * SIDE, "mode": "L", "mean": 0, "std": 1})
        values = torch.tensor(np.stack([fit(image) for image in images]))[:, 0]
        patches = values.unfold(1, 8, 8).unfold(2, 8, 8).reshape(READ, SIDE * SIDE, 64)
        found.append((patches.mean(dim=2), patches))  # 8 x 8 means: 64 numbers a frame
    return found


@torch.no_grad()
def _encoded(images: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Class tokens and patches of DINOv2-S at 112 pixels."""
    import timm

    model = timm.create_model(f"local-dir:{ENCODER}", pretrained=True, img_size=112, num_classes=0).eval()
    fit = fitting({"size": 112})
    values = torch.tensor(np.stack([fit(image) for image in images]))
    out = torch.cat([model.forward_features(part) for part in torch.split(values, 8)])
    return out[:, 0], out[:, model.num_prefix_tokens :]


def spliced(features: str, folder: Path, seed: int) -> list[tuple[Tensor, Tensor, list[int]]]:
    """Splice runs of frames of clips, neighbours from different ones: features, tokens, and the first frames of pieces but the first."""
    clips, random = _read(features, folder), np.random.default_rng(seed)
    found = []
    for _ in range(SPLICES):
        order = [int(n) for n in random.permutation(len(clips))]
        which = [order[n % len(order)] for n in range(PIECES)]
        cuts = sorted(int(n) for n in random.choice(np.arange(3, FRAMES - 3, 3), PIECES - 1, replace=False))
        parts = []
        for clip, (start, end) in zip(which, itertools.pairwise([0, *cuts, FRAMES]), strict=True):
            first = int(random.integers(0, READ - (end - start) + 1))
            parts.append((clips[clip][0][first : first + end - start], clips[clip][1][first : first + end - start]))
        found.append((torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), cuts))
    return found


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Recall and precision of each rule's cuts, and each reducer's coverage, over the splices of a seed."""
    made = spliced(arm["features"], Path(arm["folder"]), seed)
    frames, tokens = torch.stack([one[0] for one in made]), torch.stack([one[1] for one in made])
    found: dict[str, Any] = {STEPS: 0, SAMPLES: SPLICES}
    for name, rule in RULES.items():
        cut = segments(frames, **rule)
        hit = [float(cut[n, one[2]].float().mean()) for n, one in enumerate(made)]
        right = [float(cut[n, one[2]].sum()) for n, one in enumerate(made)]
        drawn = (cut[:, 1:].sum(dim=1)).tolist()
        found[f"recall, {name}"] = 100 * fmean(hit)
        found[f"precision, {name}"] = 100 * sum(right) / max(1, sum(drawn))
    unit = torch.nn.functional.normalize(tokens.flatten(1, 2), dim=-1)
    for keep, reducer in itertools.product(KEEPS, REDUCERS):
        made_by = make_reducer(Tokens(reducer=reducer, keep=keep))
        kept = made_by.once(Frames(tokens, frames))  # type: ignore[union-attr]
        nearest = (unit @ torch.nn.functional.normalize(kept.hidden, dim=-1).mT).amax(dim=2)
        found[f"coverage at {keep:g}, {reducer}"] = float((1 - nearest).mean())
    return found


def requirements(cells: Cells) -> list[Requirement]:
    """Recall at c = 8; coverage has none."""
    return [
        Requirement(
            f"cuts found at c = 8, {arm}", "at least", 95.0, fmean(cells.of(arm, "recall, c = 8, tau = 0.9")), "%"
        )
        for arm in cells.study.arms
    ]


def page(cells: Cells, clips: Sequence[Path]) -> str:
    """benchmarks/results/fastvid_real.md."""
    arms = list(cells.study.arms)
    rules = [
        [arm, name, _mean(cells, arm, f"recall, {name}", 1), _mean(cells, arm, f"precision, {name}", 1)]
        for arm in arms
        for name in RULES
    ]
    cover = [
        [arm, reducer, *(_mean(cells, arm, f"coverage at {keep:g}, {reducer}", 4) for keep in KEEPS)]
        for arm in arms
        for reducer in REDUCERS
    ]
    best = {arm: min(REDUCERS, key=lambda r: fmean(cells.of(arm, f"coverage at {KEEPS[0]:g}, {r}"))) for arm in arms}
    covers = " and ".join(f"`{name}` (by {arm})" for arm, name in best.items())
    fast = "" if "fastvid" in best.values() else "; FastVID does not"
    missed = [r for r in requirements(cells) if not r.met]
    said = (
        "DySeg did not find the cuts of real clips as often as was asked."
        if missed
        else "DySeg finds the cuts of spliced real clips, among others that it makes."
    )
    return f"""# Real clips, spliced

{said} Of what keeps {100 * KEEPS[0]:g} % of the tokens, {covers} come nearest to all of them{fast}.

{SPLICES} splices a seed, {len(cells.study.seeds)} seeds: {PIECES} runs of {", ".join(path.stem for path in clips)} (from {READ} evenly spaced frames of each), {FRAMES} frames in all. *Pixels*:
{SIDE} x {SIDE} grey patches of 8 x 8, a frame's feature their means; *{ENCODED}*: patches and class token at 112 pixels. Mean ± standard deviation over
seeds.

{markdown_table(["features", "rule", "cuts found, %", "of what was cut, %"], rules)}

Coverage: mean cosine distance of every token to the nearest kept one; smaller is nearer.

{markdown_table(["features", "reducer", *(f"{100 * keep:g} % kept" for keep in KEEPS)], cover)}

{preamble(cells.measured(), "python benchmarks/fastvid.py --real")}

## Requirements

{requirement_lines(requirements(cells))}

![coverage by reducer](fastvid_real.svg)
"""


def _mean(cells: Cells, arm: str, name: str, places: int) -> str:
    values = cells.of(arm, name)
    return spread(values, places)


def draw(cells: Cells) -> Figure:
    """Coverage of each reducer, a panel a kind of features."""
    figure, axes = panels(*(f"{arm}: distance to the nearest kept token" for arm in cells.study.arms))
    for axis, arm in zip(axes, cells.study.arms, strict=True):
        for number, keep in enumerate(KEEPS):
            values = [fmean(cells.of(arm, f"coverage at {keep:g}, {reducer}")) for reducer in REDUCERS]
            axis.barh(
                np.arange(len(REDUCERS)) + 0.4 * number, values, 0.4, color=COLOURS[number], label=f"{100 * keep:g} %"
            )
        axis.set_yticks(np.arange(len(REDUCERS)) + 0.2, REDUCERS, fontsize=7)
        axis.legend(frameon=False, fontsize=8)
    return figure


def run(seeds: Sequence[int], jobs: int, folder: Path, *, quick: bool) -> None:
    """Measure, print, and write unless it was a look."""
    named = [PIXELS] if quick or not ENCODER.is_dir() else [PIXELS, ENCODED]
    clips = sources(folder)
    arms = {name: {"features": name, "folder": str(folder)} for name in named}
    cells = Study("fastvid-real", measure, arms, seeds).run(jobs)
    text = page(cells, clips)
    print(text)
    if not quick:
        figures = {"cells": cells.named(),
                   "requirements": [r.to_json() for r in requirements(cells)]}  # fmt: skip
        write_results("fastvid_real", figures, text, draw(cells))
