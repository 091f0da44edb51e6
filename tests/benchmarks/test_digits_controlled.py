"""Controlled corpora: their numbers follow the laws, and arms are compared at equal accuracy or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dictpfl.client.compress.verdicts import BETTER, LEVEL, WORSE
from lib import digits_controlled_page
from lib.arms import Cells
from lib.digits_controlled import (
    BENFORD,
    BESIDE,
    EVEN,
    FULL,
    QUICK,
    Judged,
    arithmetic,
    encoded,
    measure,
    numbers,
    study,
)
from lib.digits_controlled_page import LEVELS, averaged, comparisons, document, draw, first_at, page, sentences

SEEDS = range(5)
FACTS: dict[str, Any] = {
    "date": "2026-11-28", "processor": "one", "cores": 2, "load": "0", "python": "3.13", "versions": {}, "commit": "none",
}  # fmt: skip


def planted(extra: dict[str, float], best: float = 1.0) -> Cells:
    """Cells whose arms learn at their own speed, and write a share of the digits 1 to 3 beyond the even one; seeds lie to both sides."""
    made, found = study(FULL, SEEDS), {}
    for number, arm in enumerate(made.arms):
        for seed in SEEDS:
            checkpoints, side = [], 0.002 * (number + 1) * (-1) ** seed
            for step in range(50, 2001, 50):
                exact = min(best, step / (1000 + 200 * number + 50 * seed))
                low = 0.3 + extra.get(arm, 0.0) + side + 0.3 * (1 - exact)
                share = np.array([(1 - low) / 7, *[low / 3] * 3, *[(1 - low) / 7] * 6])
                counts = np.round(100_000 * share).astype(int).tolist()
                checkpoints.append({"step": step, "loss": 1.0, "exact": exact, "written": counts, "errors": counts})
            found[arm, seed] = {"steps": FULL["steps"], "samples": 1, "values": 300_000, "truth": [100] * 10, "checkpoints": checkpoints,
                                "cpu_seconds": 60.0, "machine": FACTS}  # fmt: skip
    return Cells(made, found)


def test_equal_arms_show_no_difference() -> None:
    cells = planted({})
    made = comparisons(cells)
    assert [(one.arm, one.rival, one.level) for one in made] == [
        (arm, EVEN, level) for arm in (BENFORD, BESIDE) for level in LEVELS
    ]
    assert all(one.is_made and one.verdict == LEVEL for one in made)
    assert all(f": {LEVEL}.**" in sentence for sentence in sentences(cells))


@pytest.mark.parametrize(
    ("extra", "word", "told"), [(0.04, WORSE, "more of the digits"), (-0.04, BETTER, "fewer of the digits")]
)
def test_a_shift_has_its_word(extra: float, word: str, told: str) -> None:
    cells = planted({BENFORD: extra})
    made = comparisons(cells)
    assert {one.verdict for one in made if one.arm == BENFORD} == {word}
    assert {one.verdict for one in made if one.arm == BESIDE} == {LEVEL}
    low, one = made[0].claims
    assert low.interval.mean == pytest.approx(-100 * extra, abs=0.5), "points; above 0 is fewer"
    assert one.interval.mean == pytest.approx(-100 * extra / 3, abs=0.2)
    assert told in sentences(cells)[0]
    assert LEVEL in sentences(cells)[1]


def test_accuracy_that_a_seed_did_not_reach_is_not_compared() -> None:
    cells = planted({BENFORD: 0.04})
    slow = cells.found[EVEN, 3]["checkpoints"]
    for one in slow:
        one["exact"] = min(one["exact"], 0.6)
    made = comparisons(cells)
    assert [one.is_made for one in made] == [True, True, False, False] * 2
    assert "Not every seed of both came to 75% and 90%." in sentences(cells)[0]
    nowhere = planted({BENFORD: 0.04}, best=0.2)
    assert not any(one.is_made for one in comparisons(nowhere))
    said = sentences(nowhere)
    assert all("the comparison cannot be made" in sentence and "20 to 20 %" in sentence for sentence in said)
    assert "None: no level was reached" in page(nowhere, FACTS)
    assert document(nowhere)["levels"][0] == {"arm": BENFORD, "rival": EVEN, "level": 0.25, "made": False, "claims": []}


def test_verdicts_that_differ_by_accuracy_are_not_summed_up() -> None:
    cells = planted({})
    for seed in SEEDS:
        for one in cells.found[BENFORD, seed]["checkpoints"]:
            if one["exact"] < 0.4:
                one["written"] = [0, *[100] * 3, *[0] * 6]
    assert "verdicts differ by accuracy" in sentences(cells)[0]
    assert f"{LEVEL};" in sentences(cells)[0]


def test_the_first_crossing_counts_at_the_level_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        {"step": step, "exact": exact, "written": [100 * step, 0], "errors": [0, step]}
        for step, exact in ((1, 0.1), (2, 0.5), (3, 0.4), (4, 0.9))
    ]
    monkeypatch.setattr(digits_controlled_page, "WINDOW", 1)
    found = first_at(made, 0.4)
    assert found is not None
    assert (found["step"], found["exact"]) == (2, 0.4)
    np.testing.assert_allclose(found["written"], [175, 0])
    np.testing.assert_allclose(found["errors"], [0, 1.75])
    first = first_at(made, 0.05)
    assert first is not None
    assert first["step"] == 1, "before the first checkpoint nothing is known"
    assert first_at(made, 0.95) is None
    monkeypatch.setattr(digits_controlled_page, "WINDOW", 2)
    windows = averaged(made)
    assert [one["step"] for one in windows] == [2, 3, 4]
    np.testing.assert_allclose([one["exact"] for one in windows], [0.3, 0.45, 0.65])
    np.testing.assert_allclose(windows[1]["written"], [250, 0])
    assert averaged(made[:1]) == []
    assert first_at(made[:1], 0.05) is None


def test_the_page_holds_every_arm() -> None:
    cells = planted({BENFORD: 0.04})
    text = page(cells, FACTS)
    assert all(f"`{arm}`" in text for arm in (BENFORD, EVEN, BESIDE))
    assert "5 seeds" in text
    assert len(document(cells)["cells"]) == 15
    assert len(draw(cells).axes) == 2


def test_numbers_follow_their_laws() -> None:
    for law, expected in ((BENFORD, np.log10(1 + 1 / np.arange(1, 10))), (EVEN, np.full(9, 1 / 9))):
        found = numbers(np.random.default_rng(1), law, 60_000, 2)
        assert (found.min(), found.max()) == (1, 99)
        assert (found < 10).mean() == pytest.approx(0.5, abs=0.01)
        leading = np.bincount([int(str(n)[0]) for n in found.tolist()], minlength=10)[1:] / len(found)
        np.testing.assert_allclose(leading, expected, atol=0.006)
    paired = [numbers(np.random.default_rng(7), law, 500, 2) for law in (BENFORD, EVEN)]
    assert np.array_equal(paired[0] < 10, paired[1] < 10), "arms differ in nothing but the law"


def test_lines_are_true_and_are_read_where_the_answer_is() -> None:
    first, answers = np.array([17, 42, 5]), np.array([42, 17, 5])
    lines = arithmetic(first, answers)
    assert lines == ["17+25=42", "42-25=17", "5+0=5"]
    ids, labels = encoded([*lines, "99 99 99"])
    assert ids.shape == labels.shape == (4, 10)
    assert (labels[2] >= 0).sum() == 6, "five characters and the line's end"
    judged = Judged.of({"judged": 200, "length": 2}, 3)
    again = Judged.of({"judged": 200, "length": 2, "arithmetic": BENFORD}, 3)
    assert (judged.ids == again.ids).all(), "the same questions for every arm"
    asked, truth = judged.wanted >= 0, judged.truth
    assert asked.sum() == sum(truth) + 200
    assert sum(truth[1:4]) / sum(truth) == pytest.approx(0.32, abs=0.07)


def test_a_model_that_knows_is_exact_and_one_that_writes_ones_errs_at_the_first_place() -> None:
    import torch

    judged = Judged.of({"judged": 100, "length": 2}, 1)

    class Known:
        def __init__(self, wanted: torch.Tensor) -> None:
            self.wanted = wanted

        def __call__(self, **_: Any) -> Any:
            logits = torch.nn.functional.one_hot(self.wanted.clamp(min=0), 15).float()
            return type("Out", (), {"logits": logits})

    known = judged.read(Known(judged.wanted))
    assert (known["exact"], known["written"], sum(known["errors"])) == (1.0, judged.truth, 0)
    ones = judged.read(Known(torch.ones_like(judged.wanted)))
    assert ones["exact"] == 0.0
    assert ones["written"] == [0, sum(judged.truth), *[0] * 8]
    right = sum(set(line[line >= 0].tolist()[:-1]) == {1} for line in judged.wanted)
    assert ones["errors"][1] == 100 - right, "one first error an answer, except where all digits are 1"


def test_training_gives_the_same_again() -> None:
    arm = study(QUICK, (0,)).arms[BENFORD] | {"steps": 4, "every": 2, "judged": 20}
    one, other = measure(arm, 0), measure(arm, 0)
    assert one == other
    assert [c["step"] for c in one["checkpoints"]] == [2, 4]
    assert one["samples"] == 4 * (FULL["lines"] + FULL["beside"])


def test_its_cells_are_listed_as_typed(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "digits.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), "--controlled", "--list"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[:3] for line in lines] == [
        ["digits_controlled", arm, str(seed)] for seed in SEEDS for arm in (BENFORD, EVEN, BESIDE)
    ]
    assert {line[-1] for line in lines} <= {"there", "missing"}
