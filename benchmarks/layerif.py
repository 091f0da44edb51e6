"""Layers by influence: does it find wrong labels, and does it help to divide ranks or zeros by it?

    python benchmarks/layerif.py              # labels 5 seeds, zeros 3, ranks 10, and both by solver; a quarter of an hour of one core
    python benchmarks/layerif.py --labels     # that part alone; likewise --sparsity and --ranks; several go together; the page holds what is there
    python benchmarks/layerif.py --sparsity-solvers --ranks-solvers # by DataInf and without H (TracIn) beside the exact solver, and five random draws
    python benchmarks/layerif.py --render     # the page anew from layerif.json; measures nothing
    python benchmarks/layerif.py --language   # zeros of SmolLM2 on tales, 3 draws: layerif_language.md; cells that resume, hours of two cores
    python benchmarks/layerif.py --newsgroups # ranks of MiniLM on 20 Newsgroups, 10 seeds: layerif_newsgroups.md; cells that resume; hours of one core
    python benchmarks/layerif.py --quick      # two seeds, for a look; writes nothing
    python benchmarks/layerif.py --jobs 2     # processes at a time

*Labels*: an MLP 64-16-16-10 learns 200 digits, a fifth of them mislabelled, in 30 steps; the figure is the area under the curve by which a
score ranks the wrong ones. *Zeros*: an MLP of four layers of 64 loses 70, 80 and 90 % of its weights by Wanda, divided among layers seven
ways. Scores are those of the exact solver, unless an arm names another one. *Ranks*: a federation of three institutions with 192 table values a rank, divided five ways by the map that a federation before it
tallied; without encryption, which changes no figure (the tests hold the digests equal). All on scikit-learn's digits.
A null exits 0; 1 means that a number is missing, or that arms were not equal. Results: `benchmarks/results/layerif.{json,md,svg}`.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from dictpfl.client.compress.influence.layers import Measure, layer_influence
from dictpfl.client.compress.narrow.phases import trained
from dictpfl.client.compress.narrow.relearn import figure
from dictpfl.client.compress.sparse.prune import prune, samples_for_scores
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.training.task import load_task
from dictpfl.client.training.train import Trained
from dictpfl.common.settings import Data, Training
from lib import layerif_page, layers_of_language, ranks_by_map
from lib.arms import Cells, Claim, Study, study_parser
from lib.layerif_page import (
    DRAWS,
    LABELS,
    RANK_SOLVERS,
    RANKS,
    SOLVERS,
    SPARSITIES,
    TITLES,
    WRONG,
    ZEROS,
    opening,
    solvers_page,
)
from lib.machine import RESULTS, Requirement, requirement_lines, write_results

Measured = Callable[[Mapping[str, Any], int], dict[str, Any]]
Paged = Callable[[Cells], tuple[str, list[Requirement], list[Claim]]]
TRAINING = Training(batch_size=32, learning_rate=1e-2, device="cpu")
_SEEDS = {"labels": 5, "sparsity": 3, "ranks": 10, "sparsity-solvers": 3, "ranks-solvers": 10}
_LOOK = 2


@cache
def _digits() -> Samples:
    return load_dataset(Data(), 1).samples


def _split(seed: int, *sizes: int) -> list[Samples]:
    order, ends = np.random.default_rng(seed).permutation(len(_digits())), np.cumsum([0, *sizes])
    return [_digits().take(order[a:b]) for a, b in itertools.pairwise(ends)]


def measure_labels(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Rank training samples by one score, and see how high wrong labels stand."""
    torch.set_num_threads(1)
    task, (training, validation) = load_task("classification"), _split(seed, 200, 200)
    draw = np.random.default_rng(seed + 1000)
    wrong = np.zeros(200, dtype=bool)
    wrong[draw.permutation(200)[:WRONG]] = True
    told = np.where(wrong, (training.labels + draw.integers(1, 10, 200)) % 10, training.labels)
    training = Samples(training.features, told)
    torch.manual_seed(seed)
    model, done = trained(mlp((1, 8, 8), 10, (16, 16)), training, task, TRAINING.model_copy(update={"steps": 30}), seed)
    is_norm = arm["by"] == "gradient norm"
    measure = Measure("none" if is_norm else arm["by"])
    found = layer_influence(model, training, validation, task, cover=["*weight"], measure=measure)
    scores = np.sqrt(sum(block.norms**2 for block in found.blocks.values())) if is_norm else found.samples
    return {"steps": done.steps, "samples": done.samples_seen, "area": area(scores, wrong)}


def area(scores: np.ndarray, marked: np.ndarray) -> float:
    """Share of pairs of a marked and another one of which the marked one scores higher; ties count half."""
    high, low = scores[marked][:, None], scores[~marked][None]
    return float(((high > low) + 0.5 * (high == low)).mean())


def measure_zeros(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Prune one trained network at every sparsity, zeros divided one way."""
    model, done, own, test = _dense(seed)
    return _pruned(model, done, own, test, allocate=arm["way"], seed=seed)


def measure_zero_solvers(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Prune it by the scores of one solver, or of the exact one dealt out at random."""
    model, done, own, test = _dense(seed)
    parts = samples_for_scores(own, seed)
    found = layer_influence(model, *parts, load_task("classification"), measure=Measure(arm["solver"]))
    scores = None if arm["way"] == "uniform" else {"influence": found.scores, "gradient": found.gradients}
    return _pruned(model, done, own, test, allocate=arm["way"], scores=scores, seed=DRAWS * seed + arm.get("draw", 0))


def _dense(seed: int) -> tuple[torch.nn.Module, Trained, Samples, Samples]:
    """A trained network, how it was trained, samples to decide by, and others to measure on."""
    torch.set_num_threads(1)
    task, (training, test) = load_task("classification"), _split(seed, 1200, 597)
    torch.manual_seed(seed)
    model, done = trained(
        mlp((1, 8, 8), 10, (64, 64, 64, 64)), training, task, TRAINING.model_copy(update={"steps": 300}), seed
    )
    return model, done, training.take(np.arange(96)), test


def _pruned(model: torch.nn.Module, done: Trained, own: Samples, test: Samples, **options: Any) -> dict[str, Any]:
    """Accuracy at every sparsity."""
    task = load_task("classification")
    found: dict[str, Any] = {"steps": done.steps, "samples": done.samples_seen, "dense": figure(model, test, task)}
    for percent in SPARSITIES:
        made = prune(model, own, task, percent / 100, "wanda", **options)
        found[f"{percent} % zeros"], found[f"kept at {percent}"] = figure(made.model, test, task), made.masks.kept
    return found


def measure_ranks(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Run a federation on digits whose ranks are divided one way, by the map of a federation before it."""
    changes = {"decomposition.rank": arm["rank"], "training.learning_rate": arm["rate"]}
    return ranks_by_map.ranked("layerif_digits", changes, arm["way"], arm["rounds"], seed)


def measure_rank_solvers(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The same by the map of one solver, or by the exact one's dealt out at random."""
    changes = {"decomposition.rank": arm["rank"], "training.learning_rate": arm["rate"],
               "tallies.options": {"layerif": {"solver": arm["solver"]}}}  # fmt: skip
    way = "layerif" if arm["way"] == "random" else arm["way"]
    return ranks_by_map.ranked("layerif_digits", changes, way, arm["rounds"], seed, draw=arm.get("draw", 0))


PARTS: Mapping[str, tuple[Measured, Mapping[str, Mapping[str, Any]], Paged]] = {
    "labels": (measure_labels, LABELS, layerif_page.labels_page),
    "sparsity": (measure_zeros, ZEROS, layerif_page.zeros_page),
    "ranks": (measure_ranks, RANKS, layerif_page.ranks_page),
    "sparsity-solvers": (measure_zero_solvers, SOLVERS, partial(solvers_page, part="sparsity-solvers")),
    "ranks-solvers": (measure_rank_solvers, RANK_SOLVERS, partial(solvers_page, part="ranks-solvers")),
}
DRAWN = ("labels", "sparsity", "ranks")
"""Parts with a panel in the picture."""


def page_of(parts: Mapping[str, Cells]) -> tuple[str, list[Requirement], list[Claim]]:
    """benchmarks/results/layerif.md of the parts that are measured."""
    texts, needed, claims = [], [], []
    for part, (_, _, page) in PARTS.items():
        if part not in parts:
            texts.append(f"## {TITLES[part]}\n\nNot measured yet: `python benchmarks/layerif.py --{part}`.\n")
            continue
        text, required, claimed = page(parts[part])
        texts.append(text)
        needed += required
        claims += claimed
    found = "\n".join(texts)
    text = f"""# Layers by influence (LayerIF)

{opening(claims)}

Uniform is the default of ranks and of zeros; what is offered beside it was measured here, on digits.

{found}
## Requirements

{requirement_lines(needed)}

![what each arm reached](layerif.svg)
"""
    return text, needed, claims


def _study(part: str, seeds: Sequence[int]) -> Study:
    measure, arms, _ = PARTS[part]
    return Study(f"layerif-{part}", measure, arms, seeds)


def stored_parts() -> dict[str, Cells]:
    """Cells of layerif.json, by part."""
    path = RESULTS / "layerif.json"
    document, parts = json.loads(path.read_bytes()) if path.exists() else {}, {}
    for part in PARTS:
        if part in document:
            split = {name: name.rsplit(", seed ", 1) for name in document[part]}
            found = {(arm, int(seed)): document[part][name] for name, (arm, seed) in split.items()}
            parts[part] = Cells(_study(part, sorted({seed for _, seed in found})), found)
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write unless it was a look."""
    parser = study_parser(__doc__, "two seeds; writes nothing")
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true", help=f"the part on {part}")
    parser.add_argument("--language", action="store_true", help="zeros of a language model alone, on a page of its own")
    parser.add_argument("--newsgroups", action="store_true", help="ranks of MiniLM alone, on a page of its own")
    parser.add_argument("--render", action="store_true", help="write the page anew from layerif.json; measures nothing")
    asked = parser.parse_args(arguments)
    if asked.render:
        text, _, _ = page_of(stored_parts())
        (RESULTS / "layerif.md").write_text(text.rstrip() + "\n", encoding="utf-8")
        return 0
    if asked.newsgroups:
        ranks_by_map.run(range(_LOOK if asked.quick else _SEEDS["ranks"]), asked.jobs, quick=asked.quick)
        return 0
    if asked.language:
        layers_of_language.run(range(_LOOK if asked.quick else 3), asked.jobs, quick=asked.quick)
        return 0
    chosen = [part for part in PARTS if getattr(asked, part.replace("-", "_"))] or list(PARTS)
    studies = {part: _study(part, tuple(range(_LOOK if asked.quick else _SEEDS[part]))) for part in PARTS}
    parts = {} if asked.quick else stored_parts()
    parts |= {part: one.run(asked.jobs) for part, one in studies.items() if part in chosen or one.is_measured}
    text, needed, claims = page_of(parts)
    print(text)
    if not asked.quick:
        figures = {part: cells.named() for part, cells in parts.items()}
        drawn = {part: parts[part] for part in DRAWN if part in parts}
        write_results("layerif", figures | {"claims": [c.to_json() for c in claims], "requirements": [r.to_json() for r in needed],
                                            "machine": next(iter(parts.values())).measured()}, text, layerif_page.draw(drawn or parts))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
