"""The page on layers by influence: its first sentence follows its figures, and what is stored is what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerif
from lib.arms import Cells, Study
from lib.layerif_page import (
    RANDOM,
    RANKS,
    RANKS_SAID,
    SOLVERS,
    ZEROS,
    opening,
    ranks_claims,
    solvers_page,
    zeros_claims,
)
from lib.machine import RESULTS
from lib.ranks_by_map import _deal_out

FACTS: dict[str, Any] = {
    "date": "2026-11-29", "processor": "one", "cores": 2, "load": "0", "python": "3.13", "versions": {}, "commit": "none",
}  # fmt: skip


def planted(arms: Any, means: dict[str, float], figures: list[str]) -> Cells:
    draw, study = np.random.default_rng(1), Study("planted", layerif.measure_ranks, arms, range(6))
    noise = {seed: draw.normal(0, 3) for seed in study.seeds}
    found = {
        (arm, seed): {"steps": 0, "samples": 0, "machine": FACTS, "cpu_seconds": 1.0}
        | {figure: 80 + means.get(arm, 0.0) + noise[seed] + draw.normal(0, 0.3) for figure in figures}
        for arm, seed in study.cells
    }
    return Cells(study, found)


def test_the_page_is_that_of_its_figures() -> None:
    stored = (RESULTS / "layerif.md").read_text(encoding="utf-8")
    text, needed, claims = layerif.page_of(layerif.stored_parts())
    assert stored == text.rstrip() + "\n", "python benchmarks/layerif.py --render"
    document = json.loads((RESULTS / "layerif.json").read_bytes())
    assert [claim.to_json() for claim in claims] == document["claims"]
    assert [one.to_json() for one in needed] == document["requirements"]
    assert stored.split("\n")[2].startswith(
        "Allocating ranks by influence was not shown to help: in points -0.11 (-4.58 to +4.36) against uniform"
    )


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({}, f"{RANKS_SAID} was not shown to help: in points "),
        ({"layerif": 5.0}, f"{RANKS_SAID} helped (accuracy): in points +"),
        ({"layerif": 5.0, "random": 5.0}, f"{RANKS_SAID} was not shown to help: in points "),
        (
            {"layerif": -5.0},
            "It was worse than: gradient (accuracy), random (accuracy), reversed (accuracy), uniform (accuracy).",
        ),
    ],
)
def test_the_first_sentence_follows_the_figures(means: dict[str, float], said: str) -> None:
    cells = planted(RANKS, means, ["accuracy"])
    first = opening(ranks_claims(cells))
    assert said in first
    assert "(6 seeds, on digits, by the exact solver)" in first
    assert "zeros" not in first, "they were not measured"
    figures = [f"{percent} % zeros" for percent in (70, 80, 90)]
    both = opening([*zeros_claims(planted(ZEROS, {"layerif": -9.0}, figures)), *ranks_claims(cells)])
    assert both.startswith(first)
    assert "Dividing zeros by influence was not shown to help: in points -9" in both
    assert "at 90 % zeros, against uniform" in both


def test_other_solvers_and_the_mean_of_random_draws_stand_beside_the_exact_one() -> None:
    text, needed, claims = solvers_page(
        planted(SOLVERS, {"datainf": -4.0, "random, draw 2": -10.0}, ["accuracy"]), "ranks-solvers"
    )
    verdicts = {claim.rival: claim.verdict for claim in claims}
    assert verdicts == {
        "uniform": verdicts["uniform"],
        "datainf": "better",
        "tracin": verdicts["tracin"],
        RANDOM: "better",
    }
    assert needed == []
    assert all(f"| {arm} |" in text for arm in SOLVERS)


def test_a_random_draw_deals_the_same_scores_out_to_other_blocks(tmp_path: Path) -> None:
    blocks = {str(n): {"weights": [f"{n}.weight"], "influence": float(n), "gradient": 10.0 * n} for n in range(5)}
    dealt = []
    for draw in (1, 1, 2):
        path = tmp_path / "layers.json"
        path.write_text(json.dumps({"of": "x", "blocks": blocks}))
        _deal_out(path, 3, draw)
        found = json.loads(path.read_bytes())["blocks"]
        assert [found[name]["weights"] for name in found] == [block["weights"] for block in blocks.values()]
        assert sorted(block["influence"] for block in found.values()) == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert all(block["gradient"] == 10 * block["influence"] for block in found.values())
        dealt.append([block["influence"] for block in found.values()])
    assert dealt[0] == dealt[1] != dealt[2]
