"""Layers by influence: does it find wrong labels, and does it help to divide ranks or zeros by it?

    python benchmarks/layerif.py              # labels 5 seeds, zeros 3, ranks 10; minutes of one core
    python benchmarks/layerif.py --labels     # that part alone; likewise --sparsity and --ranks; several go together; the page holds what is there
    python benchmarks/layerif.py --language   # zeros of SmolLM2 on tales, 3 draws: layerif_language.md; hours
    python benchmarks/layerif.py --newsgroups # ranks of MiniLM on 20 Newsgroups, 10 seeds: layerif_newsgroups.md; cells that resume; hours of one core
    python benchmarks/layerif.py --quick      # two seeds, for a look; writes nothing
    python benchmarks/layerif.py --jobs 2     # processes at a time

*Labels*: an MLP 64-16-16-10 learns 200 digits, a fifth of them mislabelled, in 30 steps; the figure is the area under the curve by which a
score ranks the wrong ones. *Zeros*: an MLP of four layers of 64 loses 70, 80 and 90 % of its weights by Wanda, divided among layers seven
ways. *Ranks*: a federation of three institutions with 192 table values a rank, divided five ways by the map that a federation before it
tallied; without encryption, which changes no figure (the tests hold the digests equal). All on scikit-learn's digits.
A null exits 0; 1 means that a number is missing, or that arms were not equal. Results: `benchmarks/results/layerif.{json,md,svg}`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dictpfl.client.compress.influence.layers import Measure, layer_influence
from dictpfl.client.compress.narrow.phases import trained
from dictpfl.client.compress.narrow.relearn import figure
from dictpfl.client.compress.sparse.prune import prune
from dictpfl.client.compress.sparse.spectra import BY_WEIGHTS
from dictpfl.client.data.samples import Samples
from dictpfl.client.data.source import load_dataset
from dictpfl.client.model.networks.mlp import mlp
from dictpfl.client.training.task import load_task
from dictpfl.common.settings import Data, Training
from dictpfl.deploy.reports.plots import COLOURS
from lib import layers_of_language, ranks_by_map
from lib.arms import Cells, Claim, Study, claims_table, study_parser
from lib.machine import Requirement, markdown_table, panels, preamble, requirement_lines, write_results

TRAINING = Training(batch_size=32, learning_rate=1e-2, device="cpu")
SPARSITIES = (70, 80, 90)
WAYS = ranks_by_map.WAYS
ZERO_WAYS = (*WAYS, *BY_WEIGHTS)
LABELS: Mapping[str, Mapping[str, Any]] = {name: {"by": name} for name in ("exact", "datainf", "none", "gradient norm")}
ZEROS: Mapping[str, Mapping[str, Any]] = {way: {"way": way} for way in ZERO_WAYS}
RANKS: Mapping[str, Mapping[str, Any]] = {way: {"way": way, "rank": 3, "rounds": 20, "rate": 2e-2} for way in WAYS}
"""The rate is that of uniform ranks, of 1e-3, 4e-3, 1e-2, 2e-2 and 4e-2 on two seeds of their own."""
_SEEDS = {"labels": 5, "sparsity": 3, "ranks": 10}
_LOOK = 2
_WRONG = 40  # of 200


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
    wrong[draw.permutation(200)[:_WRONG]] = True
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
    torch.set_num_threads(1)
    task, (training, test) = load_task("classification"), _split(seed, 1200, 597)
    torch.manual_seed(seed)
    model, done = trained(
        mlp((1, 8, 8), 10, (64, 64, 64, 64)), training, task, TRAINING.model_copy(update={"steps": 300}), seed
    )
    found: dict[str, Any] = {"steps": done.steps, "samples": done.samples_seen, "dense": figure(model, test, task)}
    own = training.take(np.arange(96))
    for percent in SPARSITIES:
        made = prune(model, own, task, percent / 100, "wanda", allocate=arm["way"], seed=seed)
        found[f"{percent} % zeros"], found[f"kept at {percent}"] = figure(made.model, test, task), made.masks.kept
    return found


def measure_ranks(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Run a federation on digits whose ranks are divided one way, by the map of a federation before it."""
    changes = {"decomposition.rank": arm["rank"], "training.learning_rate": arm["rate"]}
    return ranks_by_map.ranked("layerif_digits", changes, arm["way"], arm["rounds"], seed)


def zeros_claims(cells: Cells) -> list[Claim]:
    """Compare what the pages speak of."""
    figures = [f"{percent} % zeros" for percent in SPARSITIES]
    return [cells.claim(f, "layerif", rival) for f in figures for rival in ZERO_WAYS if rival != "layerif"]


def ranks_claims(cells: Cells) -> list[Claim]:
    """Compare what the pages speak of."""
    return [cells.claim("accuracy", "layerif", rival) for rival in WAYS if rival != "layerif"]


def labels_page(cells: Cells) -> tuple[str, list[Requirement], list[Claim]]:
    """What finds wrong labels."""
    mean = {arm: fmean(cells.of(arm, "area")) for arm in LABELS}
    needed = [
        Requirement("wrong labels: area of the exact solver", "at least", 0.75, mean["exact"]),
        Requirement("wrong labels: exact above DataInf", "at least", 0.1, mean["exact"] - mean["datainf"]),
    ]
    claims = [cells.claim("area", "exact", rival) for rival in LABELS if rival != "exact"]
    best = max(mean, key=mean.__getitem__)
    note = "" if best == "exact" else f" The {best} of a sample, which needs no validation samples, finds them best."
    rows = [[arm, _mean(cells, arm, "area", 3)] for arm in LABELS]
    text = f"""## Wrong labels

Area under the curve, 200 digits of which {_WRONG} are mislabelled, {len(cells.study.seeds)} seeds.{note}

{markdown_table(["score", "area"], rows)}

{claims_table(claims)}

{preamble(cells.measured(), "python benchmarks/layerif.py --labels")}
"""
    return text, needed, claims


def zeros_page(cells: Cells) -> tuple[str, list[Requirement], list[Claim]]:
    """What dividing zeros by influence does."""
    figures = [f"{percent} % zeros" for percent in SPARSITIES]
    for percent in SPARSITIES:
        kept = {cells.found[cell][f"kept at {percent}"] for cell in cells.found}
        assert len(kept) == 1, f"unequal numbers of entries stayed at {percent} %: {kept}"
    claims = zeros_claims(cells)
    needed = _gains(claims, "zeros")
    rows = [[way, *(_mean(cells, way, f) for f in figures)] for way in ZERO_WAYS]
    text = f"""## Zeros

{_null(claims, "Dividing zeros by influence")} Accuracy in percent after Wanda, no retraining, {len(cells.study.seeds)} seeds;
{fmean(cells.of("uniform", "dense")):.1f} before. Exactly as many entries stay in every arm.

{markdown_table(["divided", *figures], rows)}

{claims_table(claims)}

{preamble(cells.measured(), "python benchmarks/layerif.py --sparsity")}
"""
    return text, needed, claims


def ranks_page(cells: Cells) -> tuple[str, list[Requirement], list[Claim]]:
    """What dividing ranks by influence does."""
    shared = {cells.found[cell]["values"] for cell in cells.found}
    assert len(shared) == 1, f"unequal numbers of shared values: {shared}"
    claims = ranks_claims(cells)
    seed = cells.study.seeds[0]
    rows = [
        [way, _mean(cells, way, "accuracy"), ", ".join(str(r) for r in cells.found[way, seed]["ranks"].values())]
        for way in WAYS
    ]
    text = f"""## Ranks

{_null(claims, "Allocating ranks by influence")} Test accuracy in percent after {RANKS["uniform"]["rounds"]} rounds, {len(cells.study.seeds)}
seeds; {shared.pop():,} shared values in every arm.

{markdown_table(["divided", "accuracy", f"ranks of the three tables (seed {seed})"], rows)}

{claims_table(claims)}

{preamble(cells.measured(), "python benchmarks/layerif.py --ranks")}
"""
    return text, _gains(claims, "ranks"), claims


def _null(claims: Sequence[Claim], what: str) -> str:
    """One sentence on the claim against uniform, and on the arm that turns the scores round."""
    found = {(c.figure, c.rival): c.verdict for c in claims}
    won = [
        f
        for f, rival in found
        if rival == "uniform" and all(found[f, r] == "better" for r in ("uniform", "random", "reversed"))
    ]
    worse = sorted({rival for (_, rival), verdict in found.items() if verdict == "worse"})
    told = f"{what} helped ({', '.join(won)})." if won else f"{what} was not shown to help."
    return told + (f" It was worse than: {', '.join(worse)}." if worse else "")


def _gains(claims: Sequence[Claim], what: str) -> list[Requirement]:
    return [
        Requirement(
            f"{what}, {c.figure}: lower end of layerif against {c.rival}", "at least", 0.0, c.interval.low, "points"
        )
        for c in claims
        if c.rival in ("uniform", "random", "reversed")
    ]


def _mean(cells: Cells, arm: str, name: str, places: int = 1) -> str:
    values = cells.of(arm, name)
    return f"{fmean(values):.{places}f}" + (f" ± {stdev(values):.{places}f}" if len(values) > 1 else "")


def draw(parts: Mapping[str, Cells]) -> Figure:
    """Means of every arm, a panel a part."""
    figure_, plots = panels(*parts)
    for ax, (part, cells) in zip(plots, parts.items(), strict=True):
        arms = list(cells.study.arms)
        if part == "sparsity":
            for number, way in enumerate(arms):
                values = [fmean(cells.of(way, f"{percent} % zeros")) for percent in SPARSITIES]
                ax.plot(SPARSITIES, values, color=COLOURS[number], marker="o", label=way)
            ax.set_xlabel("zeros, %")
            ax.set_ylabel("accuracy, %")
            ax.legend(frameon=False, fontsize=8)
            continue
        name = "area" if part == "labels" else "accuracy"
        for number, arm in enumerate(arms):
            values = cells.of(arm, name)
            ax.scatter([number] * len(values), values, color=COLOURS[number], s=14)
            ax.scatter([number], [fmean(values)], color="black", marker="_", s=200)
        ax.set_xticks(range(len(arms)), arms, fontsize=7)
        ax.set_ylabel("area under the curve" if part == "labels" else "accuracy, %")
    return figure_


PARTS = {
    "labels": (measure_labels, LABELS, labels_page),
    "sparsity": (measure_zeros, ZEROS, zeros_page),
    "ranks": (measure_ranks, RANKS, ranks_page),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write unless it was a look."""
    parser = study_parser(__doc__, "two seeds; writes nothing")
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true", help=f"the part on {part}")
    parser.add_argument("--language", action="store_true", help="zeros of a language model alone, on a page of its own")
    parser.add_argument("--newsgroups", action="store_true", help="ranks of MiniLM alone, on a page of its own")
    asked = parser.parse_args(arguments)
    if asked.newsgroups:
        ranks_by_map.run(range(_LOOK if asked.quick else _SEEDS["ranks"]), asked.jobs, quick=asked.quick)
        return 0
    if asked.language:
        layers_of_language.run(range(_LOOK if asked.quick else 3), asked.jobs, quick=asked.quick)
        return 0
    chosen = [part for part in PARTS if getattr(asked, part)] or list(PARTS)
    parts, texts, needed, claims = {}, [], [], []
    for part, (measure, arms, page) in PARTS.items():
        study = Study(f"layerif-{part}", measure, arms, tuple(range(_LOOK if asked.quick else _SEEDS[part])))
        if part not in chosen and not study.is_measured:
            texts.append(f"## {part.capitalize()}\n\nNot measured yet: `python benchmarks/layerif.py --{part}`.\n")
            continue
        parts[part] = study.run(asked.jobs)
        text, required, claimed = page(parts[part])
        texts.append(text)
        needed += required
        claims += claimed
    head = "# Layers by influence (LayerIF)\n\nUniform is the default of ranks and of zeros; what is offered beside it was measured here, on digits.\n\n"
    text = (
        head
        + "\n".join(texts)
        + f"\n## Requirements\n\n{requirement_lines(needed)}\n\n![what each arm reached](layerif.svg)\n"
    )
    print(text)
    if not asked.quick:
        figures = {
            part: {f"{arm}, seed {seed}": one for (arm, seed), one in cells.found.items()}
            for part, cells in parts.items()
        }
        write_results("layerif", figures | {"claims": [c.to_json() for c in claims], "requirements": [r.to_json() for r in needed],
                                            "machine": next(iter(parts.values())).measured()}, text, draw(parts))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
