"""Sentences and tables of the benchmark of digits follow its figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dictpfl.client.compress.verdicts import Interval
from dictpfl.deploy.numbers.reading import Places
from digits import stored
from lib.digits_figures import (
    DIGIT,
    NONE,
    NORM,
    Facts,
    Silencing,
    correlations,
    places_of,
    random_name,
    restricted,
    sentences,
    silenced_name,
)

DRAWS, QUESTIONS = 4, 200


def facts(**changes: Any) -> Facts:
    """Figures that allow nothing, unless changed."""
    nothing: dict[str, Any] = {
        "count": 46, "diagonal": -0.01, "low": -0.02, "net": 3, "high": 5.0, "before": 0.3, "after": 0.29,
        "nearer": Interval(1.0, -1.0, 3.0, 900),
    }  # fmt: skip
    return Facts(**(nothing | changes))


def test_nothing_is_claimed_of_a_null() -> None:
    said = " ".join(sentences(facts()))
    assert "Not shown: that these neurons carry the preference" in said
    assert "Not shown: that suppressing them corrects answers" in said
    assert "was not shown to debias" in said
    assert "stays experimental" in said
    assert said.count("shown") == 4, "three sentences, and the verdict's own word"


@pytest.mark.parametrize(
    ("change", "number", "claim"),
    [
        ({"diagonal": -0.03}, 0, "**These neurons carry the preference.**"),
        ({"net": 6}, 1, "**Suppressing them corrects answers.**"),
        ({"nearer": Interval(2.0, 0.5, 3.5, 900)}, 2, "**Suppressing digit 1 debiases.**"),
    ],
)
def test_each_claim_stands_on_its_own_figure(change: dict[str, Any], number: int, claim: str) -> None:
    said, nothing = sentences(facts(**change)), sentences(facts())
    assert said[number].startswith(claim)
    assert [n for n, (a, b) in enumerate(zip(said, nothing, strict=True)) if a != b] == [number]


def test_what_is_level_is_not_shown() -> None:
    level = facts(diagonal=-0.02, net=5, nearer=Interval(1.0, 0.0, 2.0, 900))
    assert (level.carries, level.corrects, level.debiases) == (False, False, False)
    worse = facts(diagonal=0.01, low=0.02, net=-1, high=-2.0)
    assert (worse.carries, worse.corrects) == (False, False), "better than bad draws alone is no effect"


def made(seed: int, moved: bool) -> Places:
    """Places of a model that prefers 1; where `moved`, silencing a digit's neurons turns it into the next one."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 10, QUESTIONS)
    plain = np.where(draw.random(QUESTIONS) < 0.4, DIGIT, draw.integers(0, 10, QUESTIONS))
    chosen = {"plain": plain, NONE: plain, NORM: plain}
    for d in range(10):
        chosen[silenced_name(d)] = np.where(plain == d, (d + 1) % 10, plain) if moved else plain
        for n in range(DRAWS):
            chosen[random_name(n, d)] = np.where(draw.random(QUESTIONS) < 0.02, draw.integers(0, 10, QUESTIONS), plain)
    fluent = draw.random(QUESTIONS) < 0.9
    number = np.arange(QUESTIONS)
    return Places(number // 2, number % 2, truth, chosen, fluent, np.zeros((0, 0)))


def test_cells_give_places_back() -> None:
    places = made(1, moved=True)
    back = places_of(stored(places))
    assert np.array_equal(back.truth, places.truth)
    assert np.array_equal(back.fluent, places.fluent)
    assert all(np.array_equal(back.chosen[name], places.chosen[name]) for name in places.chosen)


@pytest.mark.parametrize("moved", [True, False])
def test_figures_are_those_of_plain_counts(moved: bool) -> None:
    every = [made(1, moved), made(2, moved)]
    found = Silencing(every, DRAWS, seed=1)
    plain = np.concatenate([p.chosen["plain"][p.fluent] for p in every])
    for d in (0, 1, 7):
        after = np.concatenate([p.chosen[silenced_name(d)][p.fluent] for p in every])
        for e in range(10):
            assert found.table[d][e] == pytest.approx((after == e).mean() - (plain == e).mean())
    nets = 0
    for p in every:
        for d in range(10):
            right = p.chosen[silenced_name(d)] == p.truth
            nets += int(right[p.fluent].sum()) - int((p.chosen["plain"] == p.truth)[p.fluent].sum())
    assert found.net() == nets
    assert found.moved() == 0
    told = Facts.of(found, 46)
    assert told.carries is moved
    assert len(found.random_diagonals()) == len(found.random_nets()) == DRAWS
    own = found.interval("own share", silenced_name(DIGIT), [random_name(n, DIGIT) for n in range(DRAWS)])
    assert own.verdict == ("better" if moved else own.verdict)
    assert own.low <= own.mean <= own.high
    nothing = found.interval("distance", NONE, [NONE])
    assert (nothing.mean, nothing.verdict) == (0.0, "no difference shown")
    if moved:
        assert not told.debiases, "1 turned into 2: the bias moved, it did not leave"


def test_the_restriction_mends_what_was_no_digit() -> None:
    places = made(3, moved=False)
    mended, other = restricted(places)
    assert other == int((~places.fluent).sum())
    assert mended == sum(
        int(p == t) for p, t, f in zip(places.chosen["plain"], places.truth, places.fluent, strict=True) if not f
    )


def test_its_cells_are_listed_as_typed(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "digits.py"
    done = subprocess.run(
        [sys.executable, str(script), "--list"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == 1 + 3 * 7 + 1 + 3 * 7
    assert {line[-1] for line in lines} <= {"there", "missing"}


def test_correlations_have_their_control() -> None:
    corpus = {"first": [30, 18, 12, 10, 8, 7, 6, 5, 4], "all": [20, 30, 18, 12, 10, 8, 7, 6, 5, 4]}
    found = correlations([50.0, *(1 / d for d in range(1, 10))], corpus, 1)
    benford = found["Benford, first digits"]
    assert benford["spearman"] == pytest.approx(1.0)
    assert benford["shuffled"] is not None
    assert benford["shuffled"] < 0.001
    turned = correlations([50.0, *(float(d) for d in range(1, 10))], corpus, 1)["Benford, first digits"]
    assert turned["spearman"] == pytest.approx(-1.0)
    assert turned["shuffled"] == 1.0
