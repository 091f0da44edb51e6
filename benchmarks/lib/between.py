"""Arms of pruning between layers, and two workloads that take longer: a ViT on garments, and questions about mosaics (`autoprune.py --vit`, `--mosaic`).

The model that an arm begins from is trained once a seed, and lies beside the cells, so that what is broken off goes on.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from dictpfl.client.data.samples import Dataset, Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.build import build_model
from dictpfl.client.model.tokens.install import reduce_tokens, with_gamma
from dictpfl.client.model.twin import Twin
from dictpfl.client.training.calling import forward
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import train
from dictpfl.common.settings import Data, Decomposition, Model, Tokens, Training
from lib.arms import SAMPLES, STEPS, Cells, Claim, Study, claims_table, spread
from lib.federations import CELLS
from lib.machine import Requirement, bars, markdown_table, panels, preamble, requirement_lines, write_results

SLOPES = (0.0, 0.1, 0.2, 0.4)
FULL, FLAT, FIXED, OWN, SHUFFLED = "full", "flat", "fixed", "own MI", "shuffled MI"
RANDOM, UNMERGED = "random tokens", "fixed, no merging"
ARMS: dict[str, Mapping[str, Any]] = {
    FULL: {},
    FLAT: {"k": 0.0},
    FIXED: {"k": "validated"},
    UNMERGED: {"k": "validated", "merge": False, "trains": False},
    OWN: {"adapt": "own", "gamma": "calibrated"},
    SHUFFLED: {"adapt": "shuffled", "gamma": "calibrated"},
    "reversed MI": {"adapt": "reversed", "gamma": "calibrated", "trains": False},
    "pyramid": {"curve": "pyramid", "trains": False},
    "early": {"curve": "early", "trains": False},
    RANDOM: {"k": "validated", "pick": "random", "trains": False},
}
BEFORE = "random, before the layers"
CONTROLS: dict[str, Mapping[str, Any]] = {BEFORE: {"reducer": "random", "trains": False}}
"""Arms that say what there is to lose, where a page asks that: as many tokens, but in every layer."""
QUICK = (FULL, FLAT, FIXED, OWN, SHUFFLED)
_ALL = ARMS | CONTROLS
UNTRAINED = {arm: "it is measured without training only" for arm, made in _ALL.items() if not made.get("trains", True)}
CALIBRATED: Mapping[str, Any] = {"adapt": "own", "gamma": "measured"}
_AT_ONCE = 64
_LOSES = 1.0
"""Points that the worst arm must lose before arms are said to differ in what they lose."""
_LOOKS = 5.0
"""Points above the commonest answers below which a model is not said to look at pictures."""


@dataclass(frozen=True)
class Workload:
    """A model, its data, and the budgets at which arms are compared.

    Attributes:
        title: of the page.
        model: section `[model]`.
        data: section `[data]`.
        free: tokens that may go.
        budgets: tokens of a layer, in the mean; arms are trained at the first.
        sizes: training, validation and test samples.
        steps: of the model that arms begin from. `further`: of an arm's training.
        controls: of `CONTROLS`, beside the arms.
        lesson: group of samples that it begins with, and so many steps of them alone, before the rest; None: all from the start.
        batch, rate: of both.
        asks: requirements, of the cells.
    """

    title: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    free: int
    budgets: tuple[int, ...]
    sizes: tuple[int, int, int]
    steps: int
    further: int
    batch: int
    rate: float
    asks: Callable[[Cells, Workload], list[Requirement]] = field(compare=False)
    lesson: tuple[str, int] | None = None
    controls: tuple[str, ...] = ()


def _shape_matters(cells: Cells, load: Workload) -> list[Requirement]:
    budget = load.budgets[0]
    found = cells.claim(f"free at {budget}", FIXED, FLAT).interval
    return [
        Requirement(f"fixed curve above flat at {budget} of {load.free} tokens, without training", "at least", 2.0, found.mean, "points")
    ]  # fmt: skip


def _adapting_matters(cells: Cells, load: Workload) -> list[Requirement]:
    return [
        Requirement(f"own MI above shuffled at {b} of {load.free}: lower end", "above", 0.0, cells.claim(f"free at {b}", OWN, SHUFFLED).interval.low, "points")
        for b in load.budgets
    ]  # fmt: skip


WORKLOADS: Mapping[str, Workload] = {
    "vit": Workload(
        "Garments: vit_tiny on Fashion-MNIST",
        {"source": "vit_tiny", "options": {"dim": 48, "depth": 6, "heads": 4, "patch": 4}},
        {"source": "fashion_mnist", "path": "/usr/share/datasets/fashion-mnist", "limit": 13_000},
        49, (24, 16), (10_000, 1000, 2000), 1500, 100, 64, 1e-3, _shape_matters,
    ),
    "mosaic": Workload(
        "Questions about mosaics of 49 digits",
        {"source": "vlm", "options": {"image": [1, 56, 56], "width": 128, "layers": 8, "heads": 4}},
        {"source": "mosaic", "options": {"count": 21_500}},
        49, (12, 24), (20_000, 500, 1000), 2000, 200, 32, 1e-3, _adapting_matters, ("cell", 800), (BEFORE,),
    ),
}  # fmt: skip


@cache
def _dataset(name: str) -> Dataset:
    """All samples of a workload, made once: seeds only divide them."""
    return load_dataset(Data.model_validate(dict(WORKLOADS[name].data)), 1)


@cache
def _split(name: str, seed: int, shrunk: int) -> tuple[tuple[Samples, ...], tuple[NDArray[Any] | None, ...]]:
    """Training, validation and test samples, and the groups of each."""
    load = WORKLOADS[name]
    dataset = _dataset(name)
    order = np.random.default_rng(seed).permutation(len(dataset.samples))
    ends = np.cumsum([size // shrunk for size in load.sizes])
    divided, groups = np.split(order[: ends[2]], ends[:2]), dataset.groups
    parts = tuple(dataset.samples.take(one) for one in divided)
    return parts, tuple(None if groups is None else np.asarray(groups)[one] for one in divided)


def _trained(model: nn.Module, samples: Samples, steps: int, seed: int, load: Workload) -> tuple[nn.Module, int, int]:
    training = Training(batch_size=load.batch, learning_rate=load.rate, steps=steps, device="cpu")
    twin = Twin(model, Decomposition(enabled=False, embeddings="dense"), {})
    told = train(twin, samples, training, load_task("classification"), seed=seed)
    return twin.merge().eval(), told.steps, told.samples_seen


@cache
def _base(name: str, seed: int, shrunk: int) -> nn.Module:
    """The model that all arms begin from: read where it lies, or trained and written."""
    load, (parts, (groups, _, _)) = WORKLOADS[name], _split(name, seed, shrunk)
    torch.set_num_threads(1)
    answers = int(parts[0].labels.max()) + 1
    model = build_model(Model.model_validate(dict(load.model)), parts[0].features.shape[1:], answers, seed)
    digest = hashlib.sha256(json.dumps([_settings(load), seed, shrunk], sort_keys=True).encode()).hexdigest()[:16]
    path = CELLS / f"autoprune-{name}-base-{seed}-{digest}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    if load.lesson is not None and groups is not None:
        group, steps = load.lesson
        first = parts[0].take(np.flatnonzero(groups == group))
        model, _, _ = _trained(model, first, steps // shrunk, seed, load)
    trained, _, _ = _trained(model, parts[0], load.steps // shrunk, seed, load)
    CELLS.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in trained.state_dict().items()}, part)
    part.replace(path)
    return trained


def _settings(load: Workload) -> dict[str, Any]:
    """All that a cell depends on but its arm: one made from other settings is measured anew."""
    return {key: value for key, value in asdict(load).items() if key not in ("asks", "controls")}


@torch.no_grad()
def _right(model: nn.Module, samples: Samples) -> NDArray[np.bool_]:
    """Whether each sample is answered rightly."""
    model.eval()
    found = [
        forward(model, torch.tensor(samples.features[n : n + _AT_ONCE])).argmax(dim=1).numpy()
        == samples.labels[n : n + _AT_ONCE]
        for n in range(0, len(samples), _AT_ONCE)
    ]
    return np.concatenate(found)


def _reduced(name: str, seed: int, shrunk: int, budget: int, options: Mapping[str, Any]) -> nn.Module:
    model = copy.deepcopy(_base(name, seed, shrunk))
    if options:
        reduce_tokens(model, keep=budget / WORKLOADS[name].free, **{"reducer": "autoprune", **options})
    return model


@cache
def commonest(name: str, seed: int) -> float:
    """Percent of the test samples that are right where each kind of question gets its commonest answer: what needs no picture."""
    parts, (_, _, groups) = _split(name, seed, 1)
    labels, kinds = parts[2].labels, np.zeros(len(parts[2]), dtype=np.str_) if groups is None else groups
    return 100 * sum(int(np.bincount(labels[kinds == kind]).max()) for kind in set(kinds.tolist())) / len(labels)


@cache
def _slope(name: str, seed: int, shrunk: int, budget: int) -> float:
    """Choose k on validation samples; of equal ones the flatter."""
    validation = _split(name, seed, shrunk)[0][1]
    return max(
        SLOPES, key=lambda k: (float(_right(_reduced(name, seed, shrunk, budget, {"k": k}), validation).mean()), -k)
    )


@cache
def _gamma(name: str, seed: int, shrunk: int, budget: int) -> float:
    """Calibrate: a validation sample at the 90th percentile of MI is on the flat curve."""
    settings = Tokens(reducer="autoprune", keep=budget / WORKLOADS[name].free, options=CALIBRATED)
    validation = _split(name, seed, shrunk)[0][1]
    return float(
        with_gamma(_base(name, seed, shrunk), settings, lambda model: _right(model, validation)).options["gamma"]
    )


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Measure an arm at every budget without training, by group where there are any, and at the first after as many further steps as the rest."""
    name, shrunk = arm["workload"], arm["shrunk"]
    load, (parts, (_, _, groups)) = WORKLOADS[name], _split(name, seed, shrunk)
    chosen = {key: value for key, value in arm.items() if key not in ("workload", "shrunk", "trains", "of")}
    found: dict[str, Any] = {STEPS: 0, SAMPLES: 0}
    for budget in load.budgets:
        options = dict(chosen)
        if options.get("k") == "validated":
            options["k"] = found[f"k at {budget}"] = _slope(name, seed, shrunk, budget)
        if options.get("gamma") == "calibrated":
            options["gamma"] = found[f"gamma at {budget}"] = _gamma(name, seed, shrunk, budget)
        right = _right(_reduced(name, seed, shrunk, budget, options), parts[2])
        found[f"free at {budget}"] = 100 * float(right.mean())
        for group in [] if groups is None else sorted(set(groups.tolist())):
            found[f"free at {budget}, {group}"] = 100 * float(right[groups == group].mean())
        if arm.get("trains", True) and budget == load.budgets[0]:
            model, steps, samples = _trained(
                _reduced(name, seed, shrunk, budget, options), parts[0], load.further // shrunk, seed + 100, load
            )
            found |= {
                f"trained at {budget}": 100 * float(_right(model, parts[2]).mean()),
                STEPS: steps,
                SAMPLES: samples,
            }
    return found


def claims(cells: Cells, load: Workload) -> list[Claim]:
    """Comparisons of the page."""
    asked = [
        (FIXED, FLAT), (OWN, SHUFFLED), (OWN, FIXED), (OWN, "reversed MI"), (FIXED, RANDOM), (FIXED, UNMERGED), (FIXED, "pyramid"),
        (FIXED, "early"), (RANDOM, BEFORE),
    ]  # fmt: skip
    pairs = [pair for pair in asked if {*pair} <= set(cells.study.arms)]
    free = [cells.claim(f"free at {budget}", *pair) for budget in load.budgets for pair in pairs]
    return free + [
        cells.claim(f"trained at {load.budgets[0]}", *pair) for pair in pairs if not {*pair} & set(UNTRAINED)
    ]


def opening(cells: Cells, load: Workload, blind: float) -> str:
    """Say first what was not shown, as the plan's null clause words it; `blind`: percent right of the commonest answers."""
    made = claims(cells, load)
    adapts = [c for c in made if (c.arm, c.rival) == (OWN, SHUFFLED)]
    helped = [c.figure for c in adapts if c.verdict == "better"]
    shaped = [c.figure for c in made if (c.arm, c.rival) == (FIXED, FLAT) and c.verdict == "better"]
    first = (
        f"Adapting the curve to each sample helped ({', '.join(helped)}: above the MI of another sample)"
        if helped
        else "Adapting the curve to each sample was not shown to help here"
    )
    second = f"the shape of a fixed curve was ({', '.join(shaped)})" if shaped else "nor was the shape of a fixed curve"
    if helped:
        second = (
            f"the shape of a fixed curve was shown to as well ({', '.join(shaped)})"
            if shaped
            else "the shape of a fixed curve was not shown to"
        )
    full = fmean(cells.of(FULL, f"free at {load.budgets[0]}"))
    worst = min(fmean(cells.of(arm, f"free at {load.budgets[0]}")) for arm in cells.study.arms if arm not in CONTROLS)
    if full < blind + _LOOKS:
        return (
            f"Nothing can be told here of any arm: with all tokens the model is right about {full:.0f} % of samples, and whoever gives each kind of question its commonest "
            f"answer about {blind:.0f} %, so that it has not learnt to look. {first}; {second}."
        )
    if worst > full - _LOSES and not helped and not shaped:
        return (
            f"{first}; {second}. No arm loses anything, so that none can be told from another: with all tokens the model is right about {full:.0f} % of samples, with "
            f"{load.budgets[0]} of {load.free} at worst about {worst:.0f} %, random ones included. Whatever it looks up, it has looked up before the first token goes{_control_told(cells, load)}."
        )
    return (
        f"{first}; {second}. The model is right about {full:.0f} % of samples with all tokens, and the worst arm at {load.budgets[0]} of them about "
        f"{worst:.0f} %: so much is there to lose."
    )


def _control_told(cells: Cells, load: Workload) -> str:
    if BEFORE not in cells.study.arms:
        return ""
    left = fmean(cells.of(BEFORE, f"free at {load.budgets[0]}"))
    return f": with as few random ones in the first layer already, it is right about {left:.0f} %"


def _lesson_told(load: Workload) -> str:
    return "" if load.lesson is None else f"{load.lesson[1]} steps on *{load.lesson[0]}* alone, then "


def page(name: str, cells: Cells) -> str:
    """benchmarks/results/autoprune_NAME.md."""
    load, arms = WORKLOADS[name], list(cells.study.arms)
    figures = [f"free at {b}" for b in load.budgets]
    groups = sorted({key for key in cells.found[FULL, cells.study.seeds[0]] if key.startswith(f"{figures[0]}, ")})
    heads = [
        "arm",
        *(f"no training, {b} of {load.free}" for b in load.budgets),
        f"trained, {load.budgets[0]} of {load.free}",
        *(g.removeprefix("free ") for g in groups),
    ]
    rows = [
        [arm, *(mean_of(cells, arm, f) for f in [*figures, f"trained at {load.budgets[0]}", *groups])] for arm in arms
    ]
    ks = {b: cells.of(FIXED, f"k at {b}") for b in load.budgets}
    return f"""# {load.title}, tokens pruned between layers

{opening(cells, load, fmean(commonest(name, seed) for seed in cells.study.seeds))}

{_lesson_told(load)}{load.steps} steps of {load.batch} on {load.sizes[0]:,} samples with all tokens, {load.sizes[2]:,} others measured, {len(cells.study.seeds)} seeds with splits of their own; percent that
is right, mean ± standard deviation. *No training*: that model, measured with fewer. *Trained*: {load.further} further steps with the reducer, the full
model's as well. k of the fixed curve, chosen on {load.sizes[1]} validation samples, seed by seed: {slopes_told(ks)}. *Flat* (k = 0) and *early* are one
curve where the budget leaves no choice: all that goes, goes after the first layer.

{markdown_table(heads, rows)}

{preamble(cells.measured(), f"python benchmarks/autoprune.py --{name}")}

## Verdicts

{claims_table(claims(cells, load))}

## Requirements

{requirement_lines(load.asks(cells, load))}

![by arm](autoprune_{name}.svg)
"""


def slopes_told(found: Mapping[int, Sequence[float]]) -> str:
    """Say which slopes k each seed chose, at each number of tokens."""
    by_budget = {budget: ", ".join(f"{k:g}" for k in ks) for budget, ks in found.items()}
    if len(set(by_budget.values())) == 1:
        return f"{next(iter(by_budget.values()))} ({' and '.join(map(str, by_budget))} tokens alike)"
    return "; ".join(f"{told} ({budget} tokens)" for budget, told in by_budget.items())


def mean_of(cells: Cells, arm: str, name: str) -> str:
    """Mean and deviation of a figure over seeds; "-": not every seed has it."""
    if any(name not in cells.found[arm, seed] for seed in cells.study.seeds):
        return "-"
    values = cells.of(arm, name)
    return spread(values)


def draw(load: Workload, cells: Cells) -> Figure:
    """Percent right of each arm at the budgets, without training."""
    figure, axes = panels(*(f"{budget} of {load.free} tokens, no training" for budget in load.budgets))
    for axis, budget in zip(axes, load.budgets, strict=True):
        bars(axis, {arm: cells.of(arm, f"free at {budget}") for arm in cells.study.arms})
        axis.set_xlabel("% right")
    return figure


def run(name: str, seeds: Sequence[int], jobs: int, *, quick: bool) -> None:
    """Measure, print, and write unless it was a look."""
    load, shrunk = WORKLOADS[name], 50 if quick else 1
    arms = {
        arm: {**_ALL[arm], "workload": name, "shrunk": shrunk, "of": _settings(load)}
        for arm in (QUICK if quick else (*ARMS, *load.controls))
    }
    cells = Study(f"autoprune_{name}", measure, arms, seeds, UNTRAINED, kept=not quick).run(jobs)
    text = page(name, cells)
    print(text)
    if not quick:
        figures = {"cells": cells.named(),
                   "claims": [c.to_json() for c in claims(cells, load)], "requirements": [r.to_json() for r in load.asks(cells, load)],
                   "machine": cells.measured()}  # fmt: skip
        write_results(f"autoprune_{name}", figures, text, draw(load, cells))
