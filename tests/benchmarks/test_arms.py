"""Arms have equal steps, resume cell by cell, and a claim says what its interval shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lib import arms
from lib.arms import Study, ahead, claims_table
from lib.lines import Lines

CALLS: list[tuple[Any, int]] = []


def measure(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    CALLS.append((settings, seed))
    return {
        "steps": settings.get("steps", 10),
        "samples": 320,
        "figure": settings["lift"] + seed * 10.0 + seed % 2 * 0.1,
    }


@pytest.fixture(autouse=True)
def _cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "CELLS", tmp_path)
    monkeypatch.setattr(arms, "RESULTS", tmp_path / "results")
    CALLS.clear()


def study(**changes: Any) -> Study:
    settings = {"plain": {"lift": 0.0}, "arm": {"lift": 2.0}, "same": {"lift": 0.0}}
    return Study("test", measure, settings | changes.pop("arms", {}), changes.pop("seeds", (1, 2, 3)), **changes)


def test_claims_and_verdicts() -> None:
    cells = study().run()
    assert cells.claim("figure", "arm", "plain").verdict == "better"
    assert cells.claim("figure", "plain", "arm").verdict == "worse"
    assert cells.claim("figure", "arm", "plain", higher=False).verdict == "worse"
    same = cells.claim("figure", "same", "plain")
    assert same.verdict == "no difference shown"
    assert "no difference shown" in claims_table([same])
    assert same.to_json()["mean"] == 0.0


def test_cells_resume() -> None:
    study(seeds=(1, 2)).run()
    assert len(CALLS) == 6
    study().run()
    assert len(CALLS) == 9  # one more seed of each arm
    study(arms={"arm": {"lift": 3.0}}).run()
    assert len(CALLS) == 12  # an arm that is made otherwise is measured anew


def test_unequal_steps_are_refused_by_their_counters() -> None:
    with pytest.raises(AssertionError, match="unequal steps"):
        study(arms={"long": {"lift": 0.0, "steps": 11}}).run()
    study(arms={"long": {"lift": 0.0, "steps": 11}}, unequal={"long": "it is the ceiling"}).run()


def test_a_figure_that_is_missing_is_no_verdict() -> None:
    with pytest.raises(KeyError):
        study().run().claim("other", "arm", "plain")


def test_one_seed_shows_nothing() -> None:
    claim = study(seeds=(1,)).run().claim("figure", "arm", "plain")
    assert claim.verdict == "no difference shown"
    assert claim.to_json()["low"] is None


def test_kept_cells_are_results_and_are_measured_anew_when_their_settings_change(tmp_path: Path) -> None:
    def kept(**changes: Any) -> Study:
        return study(kept=True, seeds=(1,), **changes)

    assert kept().listed().splitlines()[0] == "test/plain/seed-1 missing"
    cells = kept().run()
    one = Lines(tmp_path / "results" / "test.jsonl").get("test/arm/seed-1")
    assert one is not None
    assert (one["settings"], one["figure"]) == ({"lift": 2.0}, 12.1)
    assert "settings" not in cells.found["arm", 1]
    assert kept().is_measured
    assert kept().listed().split()[1::2] == ["there"] * 3
    changed = kept(arms={"arm": {"lift": 3.0}})
    assert changed.missing == [("arm", 1)]
    assert changed.run().of("arm", "figure") == [13.1]
    assert len(CALLS) == 4  # three, and the one that changed


def test_names_of_kept_cells_are_plain(tmp_path: Path) -> None:
    study(kept=True, seeds=(1,), arms={"heads, random 1": {"lift": 0.0}}).run()
    assert "test/heads-random-1/seed-1" in Lines(tmp_path / "results" / "test.jsonl").keys()  # noqa: SIM118


def test_what_cells_share_is_made_for_seeds_that_miss_a_cell() -> None:
    made: list[int] = []
    study(seeds=(1, 2)).run()
    more = study(seeds=(1, 2, 3))
    ahead(made.append, more.wanting, 1)
    assert made == [3]
