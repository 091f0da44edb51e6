"""Which tokens of a clip may go before a transformer reads it: density, salience, or a simple rule?

    python benchmarks/fastvid.py               # hit rates, training and the time of a step, 3 seeds; ten minutes on two idle cores
    python benchmarks/fastvid.py --untrained   # hit rates and time alone: a minute; what was trained stays as it was
    python benchmarks/fastvid.py --short-event # hit rates and accuracy without training at 24 frames of 36 or 64 tokens: fastvid_events.md
    python benchmarks/fastvid.py --real        # three real clips, spliced (experiments/fetch.py --only clips; extra `video`): fastvid_real.md
    python benchmarks/fastvid.py --federation  # experiments/videos_digits.toml with and without its reducer: fastvid_federation.md
    python benchmarks/fastvid.py --memory      # peak of a training step, full and reduced: fastvid_memory.md
    python benchmarks/fastvid.py --quick       # one seed, few arms, for a look, of any of these; writes nothing

Clips of 16 frames of 4 x 4 tokens (`data.source = "short_events"`): three to five still scenes, and one of four digits shows for 3 frames at
one place; the label is which. Each arm trains a transformer of 2 blocks from random weights with 12.5 % of the tokens, for as many steps as
the one that reads all. In a counter-case the digit shows in every frame; in a third workload two digits show, and the label is the first. Hit rate: the share of clips of which a token with the digit stays,
with nothing else in the scene and with still, bright distractors beside a fainter digit; no model is trained for it. The time of a training
step is that of 32 frames of 64 tokens at 12.5 %. A null exits 0. Results: `benchmarks/results/fastvid.{json,md,svg}`.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from dictpfl.client.data.samples import Samples
from dictpfl.client.data.sources.short_events import drawn_clips
from dictpfl.client.model.networks.video import VideoTransformer
from dictpfl.client.model.tokens.install import reduce_tokens
from dictpfl.client.model.tokens.seam import Frames, make_reducer
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import evaluate, train
from dictpfl.common.settings import Decomposition, Training
from dictpfl.common.settings import Tokens as Settings
from dictpfl.deploy.reports.plots import COLOURS
from lib import clip_federations, events, peaks, splices
from lib.arms import SAMPLES, STEPS, Cells, Claim, Study, claims_table, name_of, spread, study_parser
from lib.machine import (
    Requirement,
    machine,
    markdown_table,
    panels,
    preamble,
    previous,
    requirement_lines,
    write_results,
)
from lib.steps import paired_steps

KEEP, FRAMES, SIDE, CLASSES = 0.125, 16, 4, 4
TRAIN_CLIPS, TEST_CLIPS, TRAINED = 900, 300, 150
LOOKED_AT = 200
TRAINING = Training(batch_size=32, learning_rate=3e-3, device="cpu")
CLEAR: Mapping[str, Any] = {"scenes": [3, 5], "distractors": 0, "contrast": 1.0, "everywhere": False}
EVERYWHERE = CLEAR | {"everywhere": True}
ORDER = CLEAR | {"order": True}
FOOLED = CLEAR | {"distractors": 3, "contrast": 0.6}
FULL, LONG, FASTVID = "all tokens", "all tokens, longer", "fastvid"
UNEQUAL = {
    LONG: "in as many steps the model that reads all tokens learns short events on some seeds only, and no order: this one has three times as many, at a third of the rate"
}
ARMS: Mapping[str, Mapping[str, Any]] = {
    FULL: {},
    LONG: {"training": {"steps": 3 * TRAINED, "learning_rate": 1e-3}},
    FASTVID: {"reducer": "fastvid"},
    "fastvid, d = 0.5": {"reducer": "fastvid", "options": {"d": 0.5}},
    "dtm": {"reducer": "dtm"},
    "salient": {"reducer": "salient"},
    "fixed segments": {"reducer": "fastvid", "options": {"d": 0.5, "segments": "fixed"}},
    "clusters": {"reducer": "fastvid", "options": {"d": 0.5, "segments": "clusters"}},
    "merged pairs": {"reducer": "tome"},
    "grid": {"reducer": "grid"},
    "frames": {"reducer": "frames"},
    "random": {"reducer": "random"},
}
QUICK = (FULL, FASTVID, "dtm", "random")


def _samples(seed: int, count: int, scene: Mapping[str, Any]) -> Samples:
    clips, labels, _ = drawn_clips(seed, count, FRAMES, SIDE, CLASSES, scene)
    return Samples(clips, labels)


def _model(arm: Mapping[str, Any]) -> nn.Module:
    model = VideoTransformer((FRAMES, 1, 8 * SIDE, 8 * SIDE), CLASSES, width=32, layers=2, heads=4, patch=8)
    if "reducer" in arm:
        reduce_tokens(model, arm["reducer"], keep=KEEP, **arm.get("options", {}))
    return model


def _trained(arm: Mapping[str, Any], scene: Mapping[str, Any], seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    twin = Twin(_model(arm), Decomposition(enabled=False), {})
    began = time.process_time()
    training = TRAINING.model_copy(update={"steps": TRAINED} | dict(arm.get("training", {})))
    told = train(twin, _samples(100 + seed, TRAIN_CLIPS, scene), training, load_task("classification"), seed=seed)
    spent = time.process_time() - began
    found = evaluate(twin.module, _samples(200 + seed, TEST_CLIPS, scene), load_task("classification"))
    return {
        "accuracy": 100 * found.metric_sum / found.count,
        "seconds": spent,
        STEPS: told.steps,
        SAMPLES: told.samples_seen,
    }


def hits(arm: Mapping[str, Any], scene: Mapping[str, Any], seed: int) -> float:
    """Measure the share of clips, in percent, of which a token with the digit stays, of tokens that are pixels."""
    clips, _, shown = drawn_clips(300 + seed, LOOKED_AT, FRAMES, SIDE, CLASSES, scene)
    if "reducer" not in arm:
        return 100.0
    reducer = make_reducer(Settings(reducer=arm["reducer"], keep=KEEP, options=arm.get("options", {})))
    patches = torch.tensor(clips[:, :, 0]).unfold(2, 8, 8).unfold(3, 8, 8).reshape(len(clips), FRAMES, SIDE * SIDE, 64)
    kept = reducer.once(Frames(patches)).positions.numpy()  # type: ignore[union-attr]
    return 100 * float(np.take_along_axis(shown.reshape(len(clips), -1), kept, axis=1).any(axis=1).mean())


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train an arm on short events, on clips that show the digit in every frame, and on which of two digits comes first."""
    torch.set_num_threads(1)
    others = {
        name: _trained(arm, scene, seed)["accuracy"]
        for name, scene in {"everywhere": EVERYWHERE, "order": ORDER}.items()
    }
    return _trained(arm, CLEAR, seed) | others


def looked(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure an arm's hit rates in three scenes."""
    scenes = {"hits": CLEAR, "hits, distractors": FOOLED, "hits, everywhere": EVERYWHERE}
    return {name: hits(arm, scene, seed) for name, scene in scenes.items()} | {STEPS: 0, SAMPLES: LOOKED_AT}


def step_times(repeats: int = 5, batch: int = 2) -> dict[str, Any]:
    """Time training steps of 32 frames of 8 x 8 tokens, 4 blocks of width 64, full and reduced in turn, on one thread."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    whole = VideoTransformer((32, 3, 64, 64), 10, width=64, layers=4, heads=4, patch=8)
    models = {"full": whole, "reduced": reduce_tokens(copy.deepcopy(whole), "fastvid", keep=KEEP)}
    clips, labels = torch.randn(batch, 32, 3, 64, 64), torch.arange(batch) % 10
    timed = paired_steps(models["full"], models["reduced"], clips, labels, repeats)
    reducer, tokens = models["reduced"].reduction.reducer, models["reduced"].tokens(clips).detach()
    spent = []
    for _ in range(repeats):
        began = time.thread_time()
        reducer.once(Frames(tokens))
        spent.append(time.thread_time() - began)
    return timed | {"reducer": median(spent), "batch": batch, "machine": machine()}  # fmt: skip


def claims(cells: Cells, figures: Sequence[str]) -> list[Claim]:
    """Comparisons of the page."""
    asked = [(FASTVID, FULL), (FASTVID, LONG), (FASTVID, "random"), (FASTVID, "frames"), (FASTVID, "grid"), (FASTVID, "salient"), (FASTVID, "merged pairs"), ("dtm", "random"),
             ("dtm", "salient"), ("dtm", "frames"), ("fastvid, d = 0.5", "fixed segments"), ("fastvid, d = 0.5", "clusters")]  # fmt: skip
    pairs = [pair for pair in asked if set(pair) <= set(cells.study.arms)]
    return [
        cells.claim(figure, *pair)
        for figure in figures
        for pair in pairs
        if not (figure.startswith("hits") and pair[1] in (FULL, LONG))  # of all tokens every event is hit
    ]


def requirements(seen: Cells, trained: Cells | None, timed: Mapping[str, Any]) -> list[Requirement]:
    """Figures that were asked for, of what was measured."""
    needed = [
        Requirement(
            "time of a training step at 12.5 % of the tokens, of the full one", "at most", 0.25, timed["ratio"]
        ),
        Requirement("reducer, of the step that is left", "at most", 0.3, timed["reducer"] / timed["reduced"]),
    ]
    for rival in ("random", "frames", "salient"):
        if rival in seen.study.arms:
            lift = seen.claim("hits, distractors", "dtm", rival).interval.mean
            needed.append(Requirement(f"distractors: dtm's hits above {rival}'s", "at least", 30.0, lift, "points"))
    if trained is not None:
        full = max(fmean(trained.of(arm, "accuracy")) for arm in (FULL, LONG) if arm in trained.study.arms)
        share = fmean(trained.of(FASTVID, "accuracy")) / full
        needed.append(Requirement("short events: FastVID of all tokens' accuracy", "at least", 0.95, share))
        for rival in ("random", "frames"):
            if rival in trained.study.arms:
                lift = trained.claim("accuracy", FASTVID, rival).interval.mean
                needed.append(Requirement(f"short events: FastVID above {rival}", "at least", 30.0, lift, "points"))
    return needed


def opening(seen: Cells, trained: Cells | None) -> str:
    """Say first what was not shown."""
    fooled = {arm: fmean(seen.of(arm, "hits, distractors")) for arm in seen.study.arms}
    worse = [arm for arm in ("random", "frames", "grid") if fooled.get(arm, 0.0) > fooled[FASTVID]]
    first = (
        f"Where bright, still things win by salience, FastVID as published keeps less of a short event than {', '.join(worse)} do; density alone "
        f"keeps {fooled['dtm']:.0f} %."
        if worse
        else f"With distractors FastVID keeps {fooled[FASTVID]:.0f} % of short events, density alone {fooled['dtm']:.0f} %."
    )
    if trained is None:
        return f"{first} Accuracy after training is not part of this page yet: it was measured without."
    rivals = [arm for arm in ("grid", "random") if arm in trained.study.arms]
    near = [a for a in rivals if fmean(trained.of(FASTVID, "accuracy")) - fmean(trained.of(a, "accuracy")) <= 1.0]
    if near:
        return f"The density rule was not shown to beat evenly spread tokens: on short events FastVID is within a point of {', '.join(near)}, or below. {first}"
    lift = ", ".join(f"{trained.claim('accuracy', FASTVID, arm).interval} points above {arm}" for arm in rivals)
    return f"{first} With nothing else in the scene the accuracy of a model trained with FastVID is {lift}, at the same number of tokens."


def page(seen: Cells, trained: Cells | None, timed: Mapping[str, Any]) -> str:
    """benchmarks/results/fastvid.md."""
    figures = ("hits", "hits, distractors", "hits, everywhere")
    rows = [[arm, *(_mean(seen, arm, figure) for figure in figures)] for arm in seen.study.arms]
    return f"""# Fewer tokens of clips

{opening(seen, trained)}

Clips of {FRAMES} frames of {SIDE} x {SIDE} tokens of 8 x 8 pixels, {CLASSES} digits, {len(seen.study.seeds)} seeds; mean ± standard deviation. All
arms but the first keep {100 * KEEP:g} % of the tokens, {FRAMES * int(KEEP * SIDE * SIDE)} of {FRAMES * SIDE * SIDE}. *Hits*: the share of
{LOOKED_AT} clips of which a token with the digit stays; *with distractors*: three still, bright patches in every scene, the digit at 0.6 of its
contrast; *in every frame*: the counter-case, in which the digit shows all the time. With two tokens a frame d = 0.4 leaves none to density: there "fastvid" is salience alone, and d = 0.5 is the least that is both.

{markdown_table(["arm", "hits, %", "hits with distractors, %", "hits, in every frame, %"], rows)}

{preamble(seen.measured(), "python benchmarks/fastvid.py --untrained")}

## Verdicts

{claims_table(claims(seen, ["hits, distractors"]))}
{_trained_text(trained) if trained else ""}
## Time of a training step

32 frames of 8 x 8 tokens, 4 blocks of width 64, batch of {timed["batch"]}, one thread, processor time, median of paired steps: full
{timed["full"]:.2f} s, at 12.5 % {timed["reduced"]:.3f} s, of which choosing and merging {timed["reducer"]:.3f} s: {timed["ratio"]:.3f} of the full step.

{preamble(timed["machine"], "python benchmarks/fastvid.py --untrained")}

## Requirements

{requirement_lines(requirements(seen, trained, timed))}

![hits by arm](fastvid.svg)
"""


def _trained_text(cells: Cells) -> str:
    rows = [
        [
            arm,
            *(_mean(cells, arm, name) for name in ("accuracy", "everywhere", "order")),
            f"{fmean(cells.of(arm, 'seconds')):.0f}",
        ]
        for arm in cells.study.arms
    ]
    return f"""
## Trained

{TRAINED} steps of {TRAINING.batch_size} from random weights on {TRAIN_CLIPS} clips, {TEST_CLIPS} others measured, {len(cells.study.seeds)} seeds; chance
is {100 / CLASSES:.0f} %. *Everywhere*: the digit shows in every frame. *Order*: two different digits show, one after the other, and the label is the first; who sees
both and not their order is right half the time. *Longer*: {UNEQUAL[LONG]}.

{markdown_table(["arm", "short event, %", "everywhere, %", "order, %", "s of training"], rows)}

{claims_table(claims(cells, ["accuracy", "everywhere", "order"]))}

{preamble(cells.measured(), "python benchmarks/fastvid.py")}
"""


def _mean(cells: Cells, arm: str, name: str) -> str:
    values = cells.of(arm, name)
    return spread(values)


def draw(cells: Cells) -> Figure:
    """Hits of each arm, with distractors and without."""
    figure, axes = panels("nothing else in the scene, hits %", "distractors, hits %")
    for axis, name in zip(axes, ("hits", "hits, distractors"), strict=True):
        for number, arm in enumerate(cells.study.arms):
            values = cells.of(arm, name)
            axis.barh(number, fmean(values), color=COLOURS[number % len(COLOURS)])
            axis.plot(values, [number] * len(values), "k.", markersize=3)
        axis.set_yticks(range(len(cells.study.arms)), list(cells.study.arms), fontsize=7)
        axis.invert_yaxis()
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write unless it was a look."""
    parser = study_parser(__doc__, "one seed, few arms; writes nothing", seeds=3)
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--untrained", action="store_true", help="hit rates and the time of a step alone")
    parts.add_argument("--short-event", action="store_true", help="events at the plan's sizes, without training")
    parts.add_argument("--real", action="store_true", help="spliced real clips")
    parts.add_argument("--federation", action="store_true", help="a federation with the reducer and without")
    parts.add_argument("--memory", action="store_true", help="peak memory of a training step")
    parser.add_argument(
        "--clips", type=Path, default=splices.FOLDER, help="folder of clips of --real; default: data/clips"
    )
    asked = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seeds, names = ((0,), QUICK) if asked.quick else (tuple(range(asked.seeds)), tuple(ARMS))
    if asked.short_event:
        events.run(seeds, asked.jobs, quick=asked.quick)
        return 0
    if asked.real:
        splices.run(seeds, asked.jobs, asked.clips, quick=asked.quick)
        return 0
    if asked.federation:
        clip_federations.run([seed + 1 for seed in seeds], asked.jobs, quick=asked.quick)
        return 0
    if asked.memory:
        peaks.run(quick=asked.quick)
        return 0
    arms = {name: ARMS[name] for name in names}
    seen = Study("fastvid-hits", looked, {name: arm for name, arm in arms.items() if name != LONG}, seeds).run(
        asked.jobs
    )
    unequal = {name: why for name, why in UNEQUAL.items() if name in arms}
    training = Study("fastvid", measure, arms, seeds, unequal)
    trained = (None if asked.quick else _kept(training)) if asked.untrained else training.run(asked.jobs)
    timed = step_times(2 if asked.quick else 5)
    text = page(seen, trained, timed)
    print(text)
    if not asked.quick:
        figures = {"hits": seen.named(), "trained": trained.named() if trained else {}, "time": timed,
                   "claims": [c.to_json() for c in claims(seen, ["hits", "hits, distractors"])],
                   "requirements": [r.to_json() for r in requirements(seen, trained, timed)], "machine": seen.measured()}  # fmt: skip
        write_results("fastvid", figures, text, draw(seen))
    return 0


def _kept(study: Study) -> Cells | None:
    """Cells that the results hold of a study, so that measuring the rest does not lose them; None: not all of its arms and seeds."""
    kept = previous("fastvid", "trained")
    found = {(arm, seed): kept.get(name_of(arm, seed)) for arm in study.arms for seed in study.seeds}
    return Cells(study, {key: one for key, one in found.items() if one}) if all(found.values()) else None


if __name__ == "__main__":
    sys.exit(main())
