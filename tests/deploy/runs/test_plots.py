"""Figures show names as they are: `$` is no mathematics, a leading underscore hides nothing, and any script is drawn without a warning."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dictpfl.common.law.layout import Kind, Layout
from dictpfl.deploy.reports.plots import kept_by_part, shares_by_block
from dictpfl.deploy.runs.census import Census
from dictpfl.deploy.runs.plots import (
    Drawn,
    classes_by_institution,
    figure_against_bytes,
    figure_against_rounds,
    sent_by_tensor,
    svg,
)
from tests.deploy.runs.test_scales import ROUND

NAMES = ("$25k_to_$50k", "$0-$50k", "_background_", r"a\$b", "北京")
RECORDS = [replace(ROUND, update=n + 1, test=0.5 + n / 10, bytes_up=10**n * 1000) for n in range(4)]


def census() -> Census:
    counts = tuple(range(1, len(NAMES) + 1))
    return Census(classes=NAMES, institutions=dict.fromkeys(NAMES, counts), test=counts)


def tensors() -> Drawn:
    sent = [replace(one, sent_by_tensor=dict.fromkeys(NAMES, 1)) for one in RECORDS]
    return sent_by_tensor(sent, Layout.of((name, (4,), Kind.DENSE) for name in NAMES))


ROWS = {"rows": [0.1, 0.2, 0.3, 0.4, 0.5], "kept": 3, "entries": 10}
FIGURES: dict[str, Any] = {
    "classes": (lambda: classes_by_institution(census()), 2),
    "rounds": (lambda: figure_against_rounds({name: [RECORDS, RECORDS] for name in NAMES}, "accuracy"), 1),
    "levels": (lambda: figure_against_rounds({"one": [RECORDS]}, "accuracy", levels=dict.fromkeys(NAMES[:3], 0.5)), 1),
    "bytes": (lambda: figure_against_bytes({name: [RECORDS] for name in NAMES}, "accuracy"), 1),
    "tensors": (tensors, 1),
    "blocks": (lambda: shares_by_block({name: dict.fromkeys(NAMES, 0.5) for name in NAMES}, "Blocks"), 2),
    "parts": (lambda: kept_by_part(dict.fromkeys(NAMES, ROWS)), 1),
}


@pytest.mark.parametrize("name", FIGURES)
def test_names_are_drawn_as_they_are(name: str) -> None:
    make, times = FIGURES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = svg(make())
    for label in NAMES[:3] if name == "levels" else NAMES:
        assert drawn.count(f">{label}<") == times, label
    assert "mathdefault" not in drawn


def test_axes_of_bytes_are_numbers() -> None:
    drawn = svg(figure_against_bytes({"one": [RECORDS]}, "accuracy"))
    assert ">0.01<" in drawn
    assert ">1<" in drawn


def test_a_run_whose_figures_are_no_numbers_is_drawn() -> None:
    """As its history reads, such as a concordance of test samples of which no two can be ordered: `dictpfl report` ended in a traceback."""
    unknown = [replace(one, test=None) for one in RECORDS]
    for draw in (figure_against_rounds, figure_against_bytes):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert svg(draw({"one": [unknown], "two": [RECORDS]}, "concordance"))
            assert svg(draw({"one": [unknown]}, "concordance"))


def test_a_figure_is_saved_by_itself_with_names_that_are_given_later() -> None:
    figure = classes_by_institution(census())
    figure.axes[0].set_title("$a_to_$b")
    figure.axes[0].set_yticks(np.arange(2), ["$x_$y_", "_"])
    with pytest.warns(UserWarning, match="Glyph"):  # this format has no fonts but those that are here
        figure.savefig(io.BytesIO(), format="png", bbox_inches="tight")
    assert ">$a_to_$b<" in svg(figure)
