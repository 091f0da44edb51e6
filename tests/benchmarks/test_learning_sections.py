"""Sections of docs/results.md on learning say where, with how many seeds, and at which rates figures were measured."""

from __future__ import annotations

from lib import learning_sections
from lib.stored import where_all


def test_every_machine_that_measured_is_named() -> None:
    """The first row's stood for all, and for the dates of others."""
    one = {"processor": "A", "cores": 2, "date": "2026-11-25 13:47 UTC"}
    other = {"processor": "B", "cores": 4, "date": "2026-11-29 17:27 UTC"}
    assert where_all([other, one]) == "A, 2 cores; B, 4 cores, 2026-11-25 to 2026-11-29"
    assert where_all([one, one]) == "A, 2 cores, 2026-11-25"
    assert all(word in learning_sections.accuracy().splitlines()[-1] for word in ("EPYC", "Xeon"))


def test_rate_at_the_end_of_its_grid_is_said() -> None:
    inside = {"rate": 2e-4, "tried": {"0.0001": 64.6, "0.0002": 68.9, "0.0004": 62.1}}
    at_end = {"rate": 5e-4, "tried": {"0.0005": 28.2, "0.001": 25.2}}
    assert learning_sections._at_an_end({"plaintext": inside, "dictpfl": inside}) == ""
    said = learning_sections._at_an_end({"plaintext": inside, "dictpfl": at_end})
    assert said.startswith("dictpfl's rate is an end of its grid (0.0005 of 0.0005 to 0.001)")


def test_accuracies_under_privacy_come_with_their_seeds() -> None:
    lines = learning_sections.privacy().splitlines()
    assert {line.split(" | ")[-1] for line in lines if line.startswith("| samples")} == {"1 |", "3 |"}
