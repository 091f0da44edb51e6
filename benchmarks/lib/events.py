"""Short events at the sizes of the plan: hit rates and accuracy without training, of arms at the same number of tokens (`fastvid.py --short-event`)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from dictpfl.client.data.sources.short_events import drawn_clips
from dictpfl.client.model.tokens.seam import Frames, Reduced, make_reducer
from dictpfl.common.settings import Tokens
from lib.arms import SAMPLES, STEPS, Cells, Claim, Study, claims_table, spread
from lib.machine import Requirement, bars, markdown_table, panels, preamble, requirement_lines, write_results

KEEP, FRAMES, CLASSES = 0.125, 24, 10
CLIPS, TRAINED_ON, HEAD_STEPS, BATCH = 120, 800, 600, 32
_PIXELS = 64
Scene = Mapping[str, Any]
SCENES: Mapping[str, Scene] = {
    "clear": {"side": 6, "distractors": 0, "contrast": 1.0},
    "4 distractors": {"side": 6, "distractors": 4, "contrast": 1.0},
    "6 distractors, faint": {"side": 6, "distractors": 6, "contrast": 0.6},
    "12 of 64, faint": {"side": 8, "distractors": 12, "contrast": 0.6},
}
LEARNT = 90.0
"""Accuracy in percent, of all tokens, from which on the head's reading of fewer says anything."""
CLEAR, FULL, FASTVID, DENSITY = "clear", "all tokens", "fastvid", "dtm"
ARMS: Mapping[str, Mapping[str, Any]] = {
    FULL: {},
    FASTVID: {"reducer": "fastvid"},
    "fastvid, c = 4": {"reducer": "fastvid", "options": {"c": 4}},
    "fastvid, learnt attention": {"reducer": "fastvid", "attention": "learnt"},
    "fastvid, shuffled attention": {"reducer": "fastvid", "attention": "shuffled"},
    "fastvid, shuffled frames": {"reducer": "fastvid", "frames": "shuffled"},
    "fixed segments": {"reducer": "fastvid", "options": {"segments": "fixed"}},
    "clusters": {"reducer": "fastvid", "options": {"segments": "clusters"}},
    DENSITY: {"reducer": "dtm"},
    "salient": {"reducer": "salient"},
    "merged pairs": {"reducer": "tome"},
    "grid": {"reducer": "grid"},
    "frames": {"reducer": "frames"},
    "random": {"reducer": "random"},
}
QUICK = (FULL, FASTVID, DENSITY, "salient", "grid", "frames", "random")


class Head(nn.Module):
    """Reader of any number of tokens, wherever they stood: each is looked at alone, and of each class the token that speaks most for it counts.

    A weighted mean in its place learns nothing in as many steps: three tokens of 864 show the digit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Linear(_PIXELS, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, CLASSES)
        )

    def weights(self, tokens: Tensor) -> Tensor:
        """Weight of each token, what it says for the class that it speaks most for, (..., T)."""
        found: Tensor = self.look(tokens).amax(dim=-1)
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, 64) to (B, classes)."""
        out: Tensor = self.look(tokens).amax(dim=1)
        return out


def _clips(seed: int, count: int, scene: Scene) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
    """Tokens (clips, frames, places, 64), labels, and where the digit is."""
    side = int(scene["side"])
    clips, labels, shown = drawn_clips(
        seed, count, FRAMES, side, CLASSES, {"scenes": [3, 5], "everywhere": False, **scene}
    )
    tokens = torch.tensor(clips[:, :, 0]).unfold(2, 8, 8).unfold(3, 8, 8).reshape(count, FRAMES, side * side, _PIXELS)
    return tokens, torch.tensor(labels), shown


@cache
def _head(seed: int) -> Head:
    """Train a head on all tokens of clear scenes."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    tokens, labels, _ = _clips(1000 + seed, TRAINED_ON, SCENES[CLEAR])
    head, draw = Head(), np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(head.parameters(), 3e-3)
    for _ in range(HEAD_STEPS):
        chosen = torch.tensor(draw.choice(TRAINED_ON, BATCH, replace=False))
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(tokens[chosen].flatten(1, 2)), labels[chosen]).backward()
        optimiser.step()
    return head.eval()


@torch.no_grad()
def _reduced(arm: Mapping[str, Any], tokens: Tensor, seed: int) -> Reduced:
    reducer = make_reducer(Tokens(reducer=arm["reducer"], keep=KEEP, options=arm.get("options", {})))
    features = attention = None
    if arm.get("attention") == "learnt":
        attention = _head(seed).weights(tokens)
    elif arm.get("attention") == "shuffled":
        attention = (tokens - tokens.mean(dim=2, keepdim=True)).norm(dim=-1).roll(1, dims=0)  # of another clip
    if arm.get("frames") == "shuffled":
        order = torch.tensor(np.random.default_rng(seed).permutation(FRAMES))
        features = tokens.mean(dim=2)[:, order]
    found: Reduced = reducer.once(Frames(tokens, features, attention))  # type: ignore[union-attr]
    return found


@torch.no_grad()
def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Hit rate of an arm in each scene, and the accuracy of the head, which is trained on all tokens, with the arm's."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {STEPS: HEAD_STEPS, SAMPLES: HEAD_STEPS * BATCH}
    with torch.enable_grad():
        head = _head(seed)
    for name, scene in SCENES.items():
        tokens, labels, shown = _clips(2000 + seed, CLIPS, scene)
        read, hit = tokens.flatten(1, 2), np.ones(CLIPS, dtype=bool)
        if arm:
            kept = _reduced(arm, tokens, seed)
            assert kept.positions.shape[1] == FRAMES * int(KEEP * int(scene["side"]) ** 2), (
                "arms have the same number of tokens"
            )
            read, where = kept.hidden, kept.positions.numpy()
            hit = np.take_along_axis(shown.reshape(CLIPS, -1), where, axis=1).any(axis=1)
        found[f"hits, {name}"] = 100 * float(hit.mean())
        found[f"accuracy, {name}"] = 100 * float((head(read).argmax(dim=1) == labels).float().mean())
    return found


def claims(cells: Cells) -> list[Claim]:
    """Comparisons of the page."""
    there = set(cells.study.arms)
    rivals = [
        r
        for r in (
            "random",
            "frames",
            "grid",
            "salient",
            DENSITY,
            "fixed segments",
            "clusters",
            "merged pairs",
            "fastvid, shuffled attention",
            "fastvid, shuffled frames",
        )
        if r in there
    ]
    made = [cells.claim(f"accuracy, {CLEAR}", FASTVID, rival) for rival in rivals]
    others = [name for name in SCENES if name != CLEAR]
    pairs = itertools.product(others, [r for r in ("random", "frames", "salient", FASTVID) if r in there])
    return made + [cells.claim(f"hits, {name}", DENSITY, rival) for name, rival in pairs]


def requirements(cells: Cells) -> list[Requirement]:
    """Promises of the plan."""
    mean = {arm: fmean(cells.of(arm, f"accuracy, {CLEAR}")) for arm in cells.study.arms}
    needed = [
        Requirement("clear event: the head, of all tokens", "at least", LEARNT, mean[FULL], "%"),
        Requirement(
            "clear event, without training: FastVID of all tokens' accuracy",
            "at least",
            0.95,
            mean[FASTVID] / mean[FULL],
        ),
    ]
    needed += [
        Requirement(f"clear event: FastVID above {rival}", "at least", 30.0, mean[FASTVID] - mean[rival], "points")
        for rival in ("random", "frames")
    ]
    for name, rival in itertools.product([n for n in SCENES if n != CLEAR], ("random", "frames", "salient")):
        lift = cells.claim(f"hits, {name}", DENSITY, rival).interval.mean
        needed.append(Requirement(f"{name}: hits of dtm above {rival}", "at least", 30.0, lift, "points"))
    return needed


def opening(cells: Cells) -> str:
    """Say first what was not shown."""
    mean = {arm: fmean(cells.of(arm, f"accuracy, {CLEAR}")) for arm in cells.study.arms}
    near = [arm for arm in ("grid", "random") if mean[FASTVID] - mean[arm] <= 1.0]
    if mean[FULL] < LEARNT:
        first = (
            f"The head did not learn ({mean[FULL]:.0f} % of all tokens), so that what it reads of fewer says nothing."
        )
    elif near:
        first = f"The density rule was not shown to beat evenly spread tokens: on clear short events FastVID is within a point of {', '.join(near)}, or below."
    else:
        lifts = ", ".join(f"{mean[FASTVID] - mean[arm]:.0f} points above {arm}" for arm in ("grid", "random", "frames"))
        first = f"On clear short events FastVID, read by a head that was trained on all tokens, is {lifts}, at the same number of tokens."
    lost = [
        name for name in SCENES
        if name != CLEAR and fmean(cells.of(FASTVID, f"hits, {name}")) < fmean(cells.of("random", f"hits, {name}"))
    ]  # fmt: skip
    fooled = (
        f" As published it keeps fewer events than chance where salience is fooled ({'; '.join(lost)})." if lost else ""
    )
    held = (
        " Density alone keeps "
        + ", ".join(f"{fmean(cells.of(DENSITY, f'hits, {n}')):.0f} % ({n})" for n in SCENES)
        + "."
    )
    return first + fooled + held


def page(cells: Cells) -> str:
    """benchmarks/results/fastvid_events.md."""
    rows = [[arm, *(_mean(cells, arm, f"hits, {name}") for name in SCENES), *(_mean(cells, arm, f"accuracy, {name}") for name in list(SCENES)[:2])]
            for arm in cells.study.arms]  # fmt: skip
    heads = ["arm", *(f"hits, {name}, %" for name in SCENES), *(f"right, {name}, %" for name in list(SCENES)[:2])]
    return f"""# Short events, without training

{opening(cells)}

{CLIPS} clips of {FRAMES} frames of 6 x 6 tokens (8 x 8 in the last scene) of 8 x 8 pixels, {len(cells.study.seeds)} seeds, mean ± standard deviation; a digit shows for 3
frames. All arms but the first keep {100 * KEEP:g} %. *Hits*: clips of which a token with the digit stays. *Right*: a head that looks at tokens one by one, of
each class the token that speaks most for it, trained on all tokens of {TRAINED_ON} clear clips for {HEAD_STEPS} steps, reads what the arm leaves. *Faint*: 0.6 of the
contrast. Salience is contrast, but for *learnt attention* (what a token says to the head, in the place of an encoder's class token) and *shuffled attention* (another clip's).

{markdown_table(heads, rows)}

{preamble(cells.measured(), "python benchmarks/fastvid.py --short-event")}

## Verdicts

{claims_table(claims(cells))}

## Requirements

{requirement_lines(requirements(cells))}

![hits by arm and scene](fastvid_events.svg)
"""


def _mean(cells: Cells, arm: str, name: str) -> str:
    values = cells.of(arm, name)
    return spread(values)


def draw(cells: Cells) -> Figure:
    """Hits of each arm, a panel a scene."""
    figure, axes = panels(*(f"{name}: hits, %" for name in SCENES), across=2)
    for axis, name in zip(axes, SCENES, strict=True):
        bars(axis, {arm: cells.of(arm, f"hits, {name}") for arm in cells.study.arms}, size=6)
    return figure


def run(seeds: Sequence[int], jobs: int, *, quick: bool) -> None:
    """Measure, print, and write unless it was a look."""
    names = QUICK if quick else tuple(ARMS)
    cells = Study("fastvid-events", measure, {name: ARMS[name] for name in names}, seeds).run(jobs)
    text = page(cells)
    print(text)
    if not quick:
        figures = {"cells": cells.named(),
                   "claims": [c.to_json() for c in claims(cells)], "requirements": [r.to_json() for r in requirements(cells)]}  # fmt: skip
        write_results("fastvid_events", figures, text, draw(cells))
