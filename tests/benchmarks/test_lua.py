"""Lua's benchmark: rates are chosen fairly, sentences follow figures, and arms that were not equal are refused."""

from __future__ import annotations

from typing import Any

import pytest

import lua
from lib import arms, lua_page
from lib.tuning import widened

RATES = {"lua": 1e-2, "equal-steps": 3e-2}
MACHINE = {"date": "2026-11-28 00:00 UTC", "processor": "p", "cores": 2, "load": 0.0, "python": "3.11", "versions": {}, "commit": "c"}  # fmt: skip


def planted(name: str, p: float, figures: dict[str, float], zeros: dict[str, int] | None = None) -> Any:
    """Cells of three seeds, whose figures differ by a little from seed to seed."""
    study = lua.study(name, p, RATES, lua.SEEDS, quick=False)
    found = {}
    for arm, seed in study.cells:
        value = figures.get(arm, 0.5) + 0.001 * seed
        held = {"test": {"metric": value, "loss": value}, "elsewhere": {"metric": value, "loss": value}}
        trains = arm not in study.unequal
        found[arm, seed] = {
            "figures": held, "steps": 200 if trains else 0, "samples": 12_800 if trains else 0, "machine": MACHINE,
            "zeros": 0 if arm == "dense" else (zeros or {}).get(arm, 100),
        }  # fmt: skip
    return arms.Cells(study, found)


def rated(values: dict[str, float]) -> Any:
    grids: dict[str, list[float]] = {"lua": [], "equal-steps": []}
    for name in values:
        arm, rate = name.rsplit(" ", 1)
        grids[arm].append(float(rate))
    study = lua.tuning("fashion", 0.8, grids)
    return arms.Cells(study, {(name, lua.TUNING): {"validation": value} for name, value in values.items()}), grids


def test_a_rate_at_the_edge_makes_the_grid_wider() -> None:
    cells, grids = rated({"lua 0.003": 0.6, "lua 0.01": 0.7, "lua 0.03": 0.8, "equal-steps 0.01": 0.9, "equal-steps 0.02": 0.9})  # fmt: skip
    assert lua.best_rate(cells, "lua", grids["lua"], higher=True) == 0.03
    assert lua.best_rate(cells, "lua", grids["lua"], higher=False) == 0.003
    assert lua.best_rate(cells, "equal-steps", grids["equal-steps"], higher=True) == 0.01, "of equal ones the smallest"
    assert widened([0.003, 0.01, 0.03], 0.03) == [0.003, 0.01, 0.03, 0.06]
    assert widened([0.003, 0.01, 0.03], 0.003) == [0.0015, 0.003, 0.01, 0.03]
    assert widened([0.003, 0.01, 0.03], 0.01) == [0.003, 0.01, 0.03]


def test_each_arm_that_trains_has_its_own_rate() -> None:
    made = lua.study("fashion", 0.8, RATES, lua.SEEDS, quick=False).arms
    assert {arm: one["rate"] for arm, one in made.items() if one["rate"]} == {
        "lua": 0.01, "shuffled": 0.01, "matrix-means": 0.01, "random": 0.01, "lua-sparsegpt": 0.01, "equal-steps": 0.03,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rival", "words"),
    [
        (0.7, []),
        (0.8, ["no difference is shown to `equal-steps`"]),
        (0.9, ["Lua is worse than `equal-steps`"]),
    ],
)
def test_the_first_sentence_follows_the_figures(rival: float, words: list[str]) -> None:
    found = {0.8: planted("fashion", 0.8, {"lua": 0.8, "equal-steps": rival, "matrix-means": 0.6})}
    if rival == 0.8:  # as good in the mean, better for one seed and worse for another
        for seed, shift in zip(lua.SEEDS, (0.02, -0.02, 0.0), strict=True):
            found[0.8].found["equal-steps", seed]["figures"]["test"]["metric"] += shift
    text = lua_page.page("fashion", found, {0.8: RATES}, "python benchmarks/lua.py --fashion")
    said = [line for line in text.splitlines() if line.startswith("**Allocation")]
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True))
    assert ("above equal steps: required at least 1 points" in text) is True
    assert ("NOT MET" in text) == (rival > 0.79)


def test_requirements_of_language_are_shares_of_perplexity() -> None:
    found = {0.6: planted("language", 0.6, {"lua": 3.0, "wanda": 3.5, "shuffled": 3.1})}
    met = {one.promise: (round(one.measured, 3), one.met) for one in lua_page.requirements("language", found)}
    assert met == {
        "60% zeros, perplexity as a share of wanda's": (0.607, True),
        "60% zeros, perplexity as a share of shuffled's": (0.905, False),
        "60% zeros, elsewhere, as a share of wanda's": (0.607, True),
    }
    text = lua_page.page("language", found, {0.6: RATES}, "python benchmarks/lua.py --language")
    assert "at 60% zeros: `lua` 0.01, `equal-steps` 0.03" in text


def test_arms_with_other_zeros_are_refused() -> None:
    with pytest.raises(AssertionError, match="unequal zeros"):
        lua._require_equal(planted("fashion", 0.8, {}, {"wanda": 90}))
    with pytest.raises(AssertionError, match="unequal zeros"):
        lua._require_equal(planted("fashion", 0.8, {}, {"sparsegpt": 90}))
    lua._require_equal(
        planted("fashion", 0.8, {}, {"lua-sparsegpt": 110})
    )  # what it moved may have come to lie at zero
