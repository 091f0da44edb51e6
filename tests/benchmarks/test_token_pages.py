"""Pages of tokens, clips, budgets and layers: what was not shown is said first, from the figures, and unequal arms make no page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

import budget
import fastvid
import vlm
from lib import between, clip_federations, events, layers_of_language, splices
from lib.arms import Cells, Study
from tests.support import ROOT

MACHINE = {"date": "2026-01-01", "processor": "-", "cores": 2, "load": 0, "python": "3", "commit": "-", "versions": {}}
SEEDS = (0, 1, 2)


def cells(arms: Sequence[str], figures: Callable[[str, int], Mapping[str, Any]]) -> Cells:
    """Made-up cells: `figures` of an arm and a seed."""
    study = Study("made-up", lambda _arm, _seed: {}, {arm: {} for arm in arms}, SEEDS)
    return Cells(study, {(arm, seed): {"machine": MACHINE, **figures(arm, seed)} for arm in arms for seed in SEEDS})


def jitter(seed: int) -> float:
    return 0.1 * seed


@pytest.mark.parametrize(
    ("arm", "lift", "said"),
    [
        (
            "none",
            0.0,
            "Adapting the curve to each sample was not shown to help here; nor was the shape of a fixed curve",
        ),
        (
            between.FIXED,
            9.0,
            "Adapting the curve to each sample was not shown to help here; the shape of a fixed curve was (free at 24",
        ),
        (between.OWN, 9.0, "Adapting the curve to each sample helped (free at 24"),
    ],
)
def test_curves(arm: str, lift: float, said: str) -> None:
    load = between.WORKLOADS["vit"]
    made = cells(
        list(between.ARMS),
        lambda one, seed: {
            **{
                f"{kind} at {b}": 60.0 + jitter(seed) * (1 + len(one) % 2) + lift * (one == arm)
                for kind in ("free", "trained")
                for b in load.budgets
            },
            **{f"k at {b}": 0.1 for b in load.budgets},
        },
    )
    assert between.opening(made, load, 40.0).startswith(said)
    assert ("No arm loses anything" in between.opening(made, load, 40.0)) == (arm == "none")
    assert between.opening(made, load, 58.0).startswith("Nothing can be told here of any arm"), (
        "a model that has not learnt to look"
    )
    assert ("NOT MET" in str(load.asks(made, load)[0])) == (arm != between.FIXED)


@pytest.mark.parametrize("lift", [0.5, 40.0])
def test_short_events(lift: float) -> None:
    def figures(arm: str, seed: int) -> dict[str, float]:
        found = 95.0 if arm in (events.FULL, events.FASTVID, events.DENSITY) else 95.0 - lift
        return {f"{what}, {scene}": found + jitter(seed) for what in ("hits", "accuracy") for scene in events.SCENES}

    made = cells(list(events.ARMS), figures)
    null = "The density rule was not shown to beat evenly spread tokens"
    assert events.opening(made).startswith(null) == (lift < 1)
    assert sum("NOT MET" in str(one) for one in events.requirements(made)) == (
        len(events.requirements(made)) - 2 if lift < 30 else 0
    )
    assert "benchmarks/fastvid.py" in events.page(made)


def test_a_head_that_learnt_nothing_is_said_first() -> None:
    def figures(_arm: str, seed: int) -> dict[str, float]:
        return {f"{what}, {scene}": 10.0 + jitter(seed) for what in ("hits", "accuracy") for scene in events.SCENES}

    made = cells(list(events.ARMS), figures)
    assert events.opening(made).startswith("The head did not learn (10 % of all tokens)")
    assert "NOT MET" in str(events.requirements(made)[0])


@pytest.mark.parametrize("recall", [100.0, 60.0])
def test_real_clips(recall: float) -> None:
    def figures(_arm: str, seed: int) -> dict[str, float]:
        rules = {f"{what}, {rule}": recall - jitter(seed) for what in ("recall", "precision") for rule in splices.RULES}
        return rules | {
            f"coverage at {keep:g}, {reducer}": 0.1 for keep in splices.KEEPS for reducer in splices.REDUCERS
        }

    text = splices.page(cells([splices.PIXELS], figures), [])
    assert ("did not find the cuts" in text) == (recall < 95)
    assert ("NOT MET" in text) == (recall < 95)


@pytest.mark.parametrize("lift", [0.0, 30.0])
def test_pictures(lift: float) -> None:
    made = cells(
        list(vlm.ARMS), lambda arm, seed: {"right": 30.0 + jitter(seed) + lift * (arm != vlm.BLIND), "right, cell": 1.0}
    )
    assert ("was not shown" in vlm.page(made)) == (lift == 0)
    assert ("NOT MET" in vlm.page(made)) == (lift < 20)


@pytest.mark.parametrize(
    ("better", "said"),
    [("none", "was not shown to help."), ("layerif", "helped (wanda, 50 %"), ("reversed", "turned round were better")],
)
def test_layers_of_a_language_model(better: str, said: str) -> None:
    names = [f"{method}, {p} %" for method in layers_of_language.METHODS for p in layers_of_language.SPARSITIES]

    def figures(arm: str, seed: int) -> dict[str, float]:
        return {name: 3.0 + jitter(seed) * 0.1 - 0.5 * (arm == better) for name in names} | {
            f"kept at {name}": 9 for name in names
        }

    made = cells(list(layers_of_language.WAYS), figures)
    assert said in layers_of_language.page(made)
    made.found["random", 1]["kept at wanda, 50 %"] = 8
    with pytest.raises(AssertionError, match="unequal numbers"):
        layers_of_language.page(made)


def budgets(lift: float) -> budget.Found:
    def one(value: float) -> list[dict[str, Any]]:
        return [{"accuracy": value + jitter(seed), "values": {"sent": 100}, "machine": MACHINE} for seed in SEEDS]

    found: budget.Found = {(budget.CONSTANT, 100): one(90.0)}
    for share in budget.SHARES:
        found |= {(name, share): one(88.0 + lift * (name == "logistic")) for name in budget.SLOPES}
    return found


@pytest.mark.parametrize("lift", [0.0, 1.5])
def test_budgets(lift: float) -> None:
    plan = budget.Plan(SEEDS, budget.SHARES, 30)
    text = budget.page(budgets(lift), plan)
    assert ("was not shown to matter" in text) == (lift == 0)
    assert ("NOT MET" in text) == (lift == 0)


def test_a_budget_that_was_not_spent_makes_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "measure_all", lambda made, _jobs: [{"values": {"sent": 100}} for _ in made])
    with pytest.raises(AssertionError, match="logistic, 50 %, seed 1: 100 of 50 values"):
        budget.measured(budget.Plan((1,), (50,), 30), 1)


def test_federations_of_clips_that_learn_nothing_say_little() -> None:
    def one(value: float, seconds: float) -> list[dict[str, Any]]:
        return [
            {"accuracy": value + jitter(s), "seconds": {"train": seconds}, "bytes": {"up": 5}, "machine": MACHINE}
            for s in SEEDS
        ]

    found = {name: one(30.0, 9.0 if name == clip_federations.FULL else 1.0) for name in clip_federations.READERS}
    text = clip_federations.page(found, SEEDS)
    assert "This says little" in text
    assert "no difference is shown to the federation that reads all" in text
    assert "NOT MET" not in text
    found["fastvid"][1]["bytes"] = {"up": 6}
    assert "runs with other bytes: required at most 0, measured 1: NOT MET" in clip_federations.page(found, SEEDS)
    found["fastvid"] = one(90.0, 1.0)
    better = clip_federations.page(found, SEEDS)
    assert "is better than the one that reads all: 60.0 points above it" in better
    assert "no difference is shown" not in better


def test_untrained_figures_leave_what_was_trained() -> None:
    study = Study("fastvid", fastvid.measure, fastvid.ARMS, (0, 1, 2), fastvid.UNEQUAL)
    kept = fastvid._kept(study)
    assert kept is not None
    assert len(kept.of(fastvid.FASTVID, "accuracy")) == 3
    assert fastvid._kept(Study("fastvid", fastvid.measure, fastvid.ARMS, (0, 9), fastvid.UNEQUAL)) is None


def test_what_pages_quote_stands_in_the_result_files() -> None:
    results = ROOT / "benchmarks" / "results"
    time = json.loads((results / "fastvid.json").read_bytes())["time"]
    family = (ROOT / "docs/explanation/pruning-family.md").read_text(encoding="utf-8")
    assert f"[{time['ratio']:.2f} of the full one](../../benchmarks/results/fastvid.md)" in family
    assert f"| stands: {time['ratio']:.2f}, and {100 * time['reducer'] / time['reduced']:.0f} %" in family
    if "runs with other bytes: required at most 0, measured 0" not in (results / "fastvid_federation.md").read_text():
        for page in ("docs/how-to/video.md", "docs/how-to/fewer-tokens.md", "experiments/videos_digits.toml"):
            text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
            assert "not a byte differs" not in text, page
            assert "the same values cross" not in text, page
