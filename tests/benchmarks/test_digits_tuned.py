"""Digits before and after federated tuning: the page's sentences and tables follow planted cells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dictpfl.deploy.numbers.reading import Places
from lib.arms import Cells
from lib.digits_figures import stored
from lib.digits_tuned import AFTER, BEFORE, FULL, QUICK, SEEDS, federation, study
from lib.digits_tuned_page import (
    EVERY,
    LEADING,
    changes,
    document,
    draw,
    moved,
    page,
    sentences,
    shares,
    within_questions,
)

FACTS: dict[str, Any] = {
    "date": "2026-11-29", "processor": "one", "cores": 2, "load": "0", "python": "3.13", "versions": {}, "commit": "none",
}  # fmt: skip
QUESTIONS = 150


def planted(moved: float) -> Cells:
    """Cells of a model that writes 1 at four places in ten; after tuning a share of these are other digits, and some places are others either way."""
    made, found = study(FULL, SEEDS), {}
    for seed in SEEDS:
        draw_from = np.random.default_rng(seed)
        read: dict[str, dict[str, Any]] = {arm: {} for arm in (BEFORE, AFTER)}
        for kind in FULL["kinds"][:2]:
            number = np.arange(2 * QUESTIONS)
            truth = draw_from.integers(0, 10, len(number))
            plain = np.where(draw_from.random(len(number)) < 0.4, 1, draw_from.integers(0, 10, len(number)))
            after = np.where((plain == 1) & (draw_from.random(len(number)) < moved), 7, plain)
            shaken = draw_from.permutation(len(number))[:6]
            after[shaken] = after[np.roll(shaken, 1)]
            for arm, digits in ((BEFORE, plain), (AFTER, after)):
                places = Places(
                    number // 2,
                    number % 2,
                    truth,
                    {"plain": digits},
                    np.ones(len(number), dtype=bool),
                    np.zeros((0, 0)),
                )
                read[arm][kind] = stored(places)
        for arm, steps in ((BEFORE, 0), (AFTER, 120)):
            found[arm, seed] = {"steps": steps, "samples": 4 * steps, "losses": [2.0, 1.5] if steps else [], "read": read[arm],
                                "cpu_seconds": 60.0, "machine": FACTS}  # fmt: skip
    cells = Cells(made, found)
    cells.require_equal()
    return cells


def test_nothing_is_said_to_move_where_nothing_did() -> None:
    cells = planted(0.0)
    assert sentences(cells) == [
        "**Federated tuning moved no share of first digits beyond its interval.**",
        "**Federated tuning moved no share of all digits beyond its interval.**",
    ]
    assert page(cells, FACTS).index("moved no share of first digits") < page(cells, FACTS).index("## First digits")


def test_what_moved_is_named_with_its_interval() -> None:
    cells = planted(0.5)
    for which, said in zip((LEADING, EVERY), sentences(cells), strict=True):
        assert said.startswith(f"**Federated tuning moved shares of {which}**: ")
        assert f"1 by {changes(cells, which)[1]} points" in said
        assert f"7 by {changes(cells, which)[7]} points" in said
        assert "3 by" not in said
    text = page(cells, FACTS)
    assert "2.000 after the first round, 1.500 after the last" in text
    assert "| fewer |" in text
    assert "| more |" in text
    assert json.loads(json.dumps(document(cells)))["sentences"] == sentences(cells)
    assert len(draw(cells).axes) == 2


@pytest.mark.parametrize("which", [LEADING, EVERY])
def test_changes_are_those_of_plain_counts(which: str) -> None:
    cells = planted(0.3)
    for digit in (1, 5, 7):
        by_seed = []
        for seed in SEEDS:
            counts = []
            for arm in (BEFORE, AFTER):
                told = [
                    letter
                    for one in cells.found[arm, seed]["read"].values()
                    for letter, place in zip(one["chosen"]["plain"], one["place"], strict=True)
                    if which == EVERY or place == 0
                ]
                counts.append(100 * told.count(str(digit)) / len(told))
            by_seed.append(counts[1] - counts[0])
            assert shares(cells, BEFORE, which)[seed][digit] == pytest.approx(counts[0])
        assert changes(cells, which)[digit].mean == pytest.approx(np.mean(by_seed))
        low, high = within_questions(cells, which)[digit]
        assert low <= np.mean(by_seed) <= high
    assert sum(one.mean for one in changes(cells, which)) == pytest.approx(0.0, abs=1e-9)


def test_a_change_that_few_questions_make_is_none_though_every_seed_shows_it() -> None:
    """One place of each seed turned into a 9: over seeds that is always the same, over questions it may be nothing."""
    cells = planted(0.0)
    for seed in SEEDS:
        before, after = (cells.found[arm, seed]["read"]["sums"]["chosen"] for arm in (BEFORE, AFTER))
        for kind in FULL["kinds"][:2]:
            cells.found[AFTER, seed]["read"][kind]["chosen"]["plain"] = cells.found[BEFORE, seed]["read"][kind][
                "chosen"
            ]["plain"]
        word = before["plain"]
        at = next(n for n, letter in enumerate(word) if letter != "9")
        after["plain"] = word[:at] + "9" + word[at + 1 :]
    assert changes(cells, EVERY)[9].verdict == "better"
    assert moved(cells, EVERY) == {}


def test_other_questions_are_not_compared() -> None:
    cells = planted(0.0)
    one = cells.found[AFTER, 0]["read"]["sums"]
    one["question"] = one["question"][::-1]
    with pytest.raises(AssertionError, match="other questions"):
        within_questions(cells, EVERY)


def test_its_federation_is_the_shipped_one_of_the_extent_asked_for() -> None:
    config = federation(QUICK, 3)
    assert (config.name, config.seed, config.federation.rounds, config.training.steps) == ("gsm8k", 3, 1, 1)
    assert config.training.task == "causal-lm"
    assert federation(FULL, 0).data.limit == 330


def test_its_cells_are_listed_as_typed(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "digits.py"
    done = subprocess.run(
        [sys.executable, str(script), "--tuned", "--list"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[:3] for line in lines] == [
        ["digits_tuned", arm, str(seed)] for seed in SEEDS for arm in (BEFORE, AFTER)
    ]
    assert {line[-1] for line in lines} <= {"there", "missing"}
