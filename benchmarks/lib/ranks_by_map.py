"""Ranks divided by a map that a federation tallied before: one run, and MiniLM on 20 Newsgroups (`layerif.py --newsgroups`)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from dictpfl.client.compress.influence.shares import BY_SCORES
from dictpfl.common.config import FederationConfig
from dictpfl.deploy.reports.plots import COLOURS
from lib.arms import SAMPLES, STEPS, Cells, Claim, Study, ahead, claims_table, spread
from lib.federations import CELLS
from lib.machine import ROOT, Requirement, markdown_table, panels, preamble, requirement_lines, write_results

WAYS = ("uniform", *BY_SCORES)
RANK_OF = (2, 4)
OPEN: Mapping[str, Any] = {
    "encryption.sealer": "identity",
    "toy_insecure": True,
    "tallies.closing": [],
    "training.threads": 1,
}
"""Without encryption, which changes no figure: the tests hold the digests equal."""
_MINILM = "layerif_newsgroups"
SMALLER: Mapping[str, Any] = {
    "data.path": str(ROOT / "data" / "newsgroups.parquet"),
    "data.options.tokenizer": str(ROOT / "data" / "minilm"),
    "model.source": f"transformers:{ROOT / 'data' / 'minilm'}",
    "data.limit": 1200,
    "data.test_share": 0.3,
    "training.device": "cpu",
}


def ranked(
    experiment: str,
    changes: Mapping[str, Any],
    way: str,
    rounds: int,
    seed: int,
    kept: Path | None = None,
    *,
    draw: int = 0,
) -> dict[str, Any]:
    """Run a federation whose ranks are divided one way, by the map of a federation of one round before it.

    Args:
        experiment: name of the configuration.
        changes: to it.
        way: of `WAYS`.
        rounds: of the federation that is measured.
        seed: of both.
        kept: file of the map, written if it is not there; None: not kept.
        draw: above 0: the map's scores are dealt out to other blocks, by this number and the seed; of a map that is not kept.
    """
    from dictpfl.deploy.exports.finished import Finished
    from dictpfl.deploy.simulation.simulate import simulate

    torch.set_num_threads(1)
    base = {**OPEN, **changes, "seed": seed}
    path = ROOT / "experiments" / f"{experiment}.toml"
    with tempfile.TemporaryDirectory(prefix="layerif-") as name:
        folder = Path(name)
        chosen = base | {"federation.rounds": rounds, "tallies.opening": [], "tallies.options": {}}
        if way != "uniform":
            scores = kept or folder / "layers.json"
            if not scores.exists():
                _map(experiment, base, scores)
            if draw:
                _deal_out(scores, seed, draw)
            chosen |= {"decomposition.allocator": way, "decomposition.scores": str(scores)}
        run = simulate(FederationConfig.load(path, chosen), folder / "run", engine="local")
        ranks = {name: d.rank for name, d in Finished.load(run.folder).genesis.dictionaries.items()}
        return {
            STEPS: 0, SAMPLES: 0,  # of institutions, who keep their counts to themselves
            "accuracy": 100 * run.accuracy, "ranks": ranks, "values": run.summary["values"]["shared"], "sent": run.summary["values"]["sent"],
        }  # fmt: skip


def _deal_out(scores: Path, seed: int, draw: int) -> None:
    """Give each block of a map another one's scores."""
    found = json.loads(scores.read_bytes())
    blocks = found["blocks"]
    order = np.random.default_rng([seed, draw]).permutation(len(blocks)).tolist()
    dealt = [list(blocks.values())[i] for i in order]
    for name, other in zip(blocks, dealt, strict=True):
        found["blocks"][name] = {**other, "weights": blocks[name]["weights"]}
    scores.write_text(json.dumps(found), encoding="utf-8")


def _map(experiment: str, base: Mapping[str, Any], scores: Path) -> None:
    """Tally a map in a federation of one round, and write it; the file is whole or not there."""
    from dictpfl.deploy.compress.layers import Found, pooled, write_layers
    from dictpfl.deploy.exports.finished import Finished
    from dictpfl.deploy.simulation.simulate import simulate

    config = FederationConfig.load(ROOT / "experiments" / f"{experiment}.toml", {**base, "federation.rounds": 1})
    with tempfile.TemporaryDirectory(prefix="layerif-") as name:
        folder = Path(name)
        first = simulate(config, folder / "first", engine="local")
        (folder / "map").mkdir()
        write_layers(Found(pooled(Finished.load(first.folder))), folder / "map")
        part = scores.with_suffix(".part")
        scores.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes((folder / "map" / "layers.json").read_bytes())
        part.replace(scores)


def measure(arm: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """MiniLM at one rank, divided one way."""
    changes = SMALLER | {"decomposition.rank": arm["rank"]}
    return ranked(_MINILM, changes, arm["way"], arm["rounds"], seed, _kept(arm["rank"], seed))


def _maps(seed: int) -> None:
    """Make the maps that all arms of a seed read; arms that run at once would each make them."""
    for rank in RANK_OF:
        if not _kept(rank, seed).exists():
            _map(_MINILM, {**OPEN, **SMALLER, "decomposition.rank": rank, "seed": seed}, _kept(rank, seed))


def _kept(rank: int, seed: int) -> Path:
    return CELLS / f"layerif-newsgroups-map-{rank}-{seed}.json"


def study(seeds: Sequence[int], rounds: int = 3) -> Study:
    """All cells."""
    arms = {f"{way}, r = {rank}": {"way": way, "rank": rank, "rounds": rounds} for rank in RANK_OF for way in WAYS}
    return Study("layerif_newsgroups", measure, arms, seeds, kept=True)


def claims(cells: Cells) -> list[Claim]:
    """LayerIF against every other way, at both ranks."""
    return [
        cells.claim("accuracy", f"layerif, r = {rank}", f"{way}, r = {rank}")
        for rank in RANK_OF
        for way in WAYS
        if way != "layerif"
    ]


def requirements(made: Sequence[Claim]) -> list[Requirement]:
    """Gains over uniform, random and reversed, all above 0 with their intervals."""
    return [
        Requirement(f"lower end of {c.arm} against {c.rival}", "above", 0.0, c.interval.low, "points")
        for c in made
        if c.rival.startswith(("uniform", "random", "reversed"))
    ]


def page(cells: Cells) -> str:
    """benchmarks/results/layerif_newsgroups.md."""
    seeds, made = cells.study.seeds, claims(cells)
    for rank in RANK_OF:
        values = {cells.found[f"{way}, r = {rank}", seed]["values"] for way in WAYS for seed in seeds}
        assert len(values) == 1, f"unequal numbers of shared values at r = {rank}: {values}"
    won = [c for c in made if c.rival.startswith("uniform") and c.verdict == "better"]
    first = (
        f"Allocating ranks by influence was better than uniform ({'; '.join(c.arm for c in won)})."
        if won
        else "Allocating ranks by influence was not shown to help: uniform ranks are the default."
    )
    lost = [c.rival for c in made if c.verdict == "worse"]
    rows = [
        [arm, _mean(cells, arm), f"{cells.found[arm, seeds[0]]['values']:,}", _spread(cells, arm)]
        for arm in cells.study.arms
    ]
    return f"""# Ranks of MiniLM by influence

{first}{f" Better than it: {', '.join(lost)}." if lost else ""}

MiniLM-L6 on 20 Newsgroups, three institutions, {SMALLER["data.limit"]:,} messages of which {100 * SMALLER["data.test_share"]:.0f} % measure, {next(iter(cells.study.arms.values()))["rounds"]}
rounds, {len(seeds)} paired seeds; without encryption, which changes no figure. Scores by the exact solver. Accuracy in percent, mean ± standard deviation.

{markdown_table(["divided", "accuracy, %", "shared values", f"ranks, least to most (seed {seeds[0]})"], rows)}

{claims_table(made)}

{preamble(cells.measured(), "python benchmarks/layerif.py --newsgroups")}

## Requirements

{requirement_lines(requirements(made))}

![what each arm reached](layerif_newsgroups.svg)
"""


def _spread(cells: Cells, arm: str) -> str:
    ranks = cells.found[arm, cells.study.seeds[0]]["ranks"].values()
    return f"{min(ranks)} to {max(ranks)}"


def _mean(cells: Cells, arm: str) -> str:
    values = cells.of(arm, "accuracy")
    return spread(values)


def draw(cells: Cells) -> Figure:
    """Every seed's accuracy, a panel a rank."""
    figure, axes = panels(*(f"r = {rank}: accuracy, %" for rank in RANK_OF))
    for axis, rank in zip(axes, RANK_OF, strict=True):
        for number, way in enumerate(WAYS):
            values = cells.of(f"{way}, r = {rank}", "accuracy")
            axis.scatter([number] * len(values), values, color=COLOURS[number], s=14)
            axis.scatter([number], [fmean(values)], color="black", marker="_", s=200)
        axis.set_xticks(range(len(WAYS)), WAYS, fontsize=7)
    return figure


def run(seeds: Sequence[int], jobs: int, *, quick: bool) -> None:
    """Measure, print, and write unless it was a look."""
    asked = Study("layerif-newsgroups-quick", measure, study(seeds, 1).arms, seeds) if quick else study(seeds)
    ahead(_maps, asked.wanting, jobs)
    cells = asked.run(jobs)
    text = page(cells)
    print(text)
    if not quick:
        made = claims(cells)
        figures = {"cells": cells.named(),
                   "claims": [c.to_json() for c in made], "requirements": [r.to_json() for r in requirements(made)]}  # fmt: skip
        write_results("layerif_newsgroups", figures, text, draw(cells))
